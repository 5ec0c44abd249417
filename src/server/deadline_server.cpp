#include "server/deadline_server.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "server/client_socket.h"

namespace prima::server {

namespace {

// How soon a server that stops lets go of connections that wait for another request.
constexpr Duration kStopPoll = std::chrono::milliseconds(10);

// One request and its answer.
class DeadlineStream final : public httplib::Stream {
 public:
  DeadlineStream(socket_t socket, const ConnectionLimits& limits)
      : socket_(socket), limits_(limits), started_(clock_.now()) {}

  bool is_readable() const override { return begin_ < end_; }
  bool wait_readable() const override {
    const Duration left = started_ + limits_.request - clock_.now();
    return left > Duration{} &&
           wait_for(socket_, SocketEvent::readable, std::min(left, limits_.read));
  }
  bool wait_writable() const override {
    return wait_for(socket_, SocketEvent::writable, limits_.write);
  }
  bool is_peer_alive() const override { return is_open(socket_); }

  ssize_t read(char* data, size_t size) override {
    if (begin_ == end_) {
      if (!wait_readable()) return failed(httplib::Error::Timeout, -1);
      const ssize_t n = httplib::detail::read_socket(socket_, buffer_.data(), buffer_.size(), 0);
      if (n == 0) return failed(httplib::Error::ConnectionClosed, 0);
      if (n < 0) return failed(httplib::Error::Read, n);
      begin_ = 0;
      end_ = static_cast<std::size_t>(n);
    }
    const std::size_t n = std::min(size, end_ - begin_);
    std::memcpy(data, buffer_.data() + begin_, n);
    begin_ += n;
    return static_cast<ssize_t>(n);
  }

  ssize_t write(const char* data, size_t size) override {
    if (!wait_writable()) return -1;
    return httplib::detail::send_socket(socket_, data, size, CPPHTTPLIB_SEND_FLAGS);
  }

  const char* buffered_data(size_t& size) const override {
    size = end_ - begin_;
    return size > 0 ? buffer_.data() + begin_ : nullptr;
  }
  void consume_buffered(size_t size) override { begin_ += size; }

  void get_remote_ip_and_port(std::string& host, int& port) const override {
    const SocketAddress address = remote_address(socket_);
    host = address.host;
    port = address.port;
  }
  void get_local_ip_and_port(std::string& host, int& port) const override {
    const SocketAddress address = local_address(socket_);
    host = address.host;
    port = address.port;
  }
  socket_t socket() const override { return socket_; }
  time_t duration() const override {
    return std::chrono::duration_cast<std::chrono::milliseconds>(clock_.now() - started_).count();
  }

 private:
  ssize_t failed(httplib::Error error, ssize_t result) {
    error_ = error;
    return result;
  }

  const SystemClock clock_;
  const socket_t socket_;
  const ConnectionLimits& limits_;
  const Instant started_;
  std::array<char, 16384> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

// Whether the client begins another request before it has been idle for too long.
bool has_more(const std::atomic<socket_t>& server, socket_t socket, Duration idle) {
  const SystemClock clock;
  const Instant end = clock.now() + idle;
  while (server != INVALID_SOCKET && clock.now() < end) {
    if (wait_for(socket, SocketEvent::readable, kStopPoll)) return true;
  }
  return false;
}

}  // namespace

DeadlineServer::DeadlineServer(const ConnectionLimits& limits) : limits_(limits) {
  // What a single send() may take; the library sets it on each connection.
  set_write_timeout(limits.write);
}

bool DeadlineServer::process_and_close_socket(socket_t socket) {
  const SocketAddress remote = remote_address(socket);
  const SocketAddress local = local_address(socket);
  const bool served = serve_guarded([&] {
    bool ok = false;
    for (std::size_t left = keep_alive_max_count_; left > 0; --left) {
      if (!has_more(svr_sock_, socket, limits_.idle)) break;
      DeadlineStream stream(socket, limits_);
      bool closed = false;
      ok = process_request(stream, remote.host, remote.port, local.host, local.port,
                           /*close_connection=*/left == 1, closed, nullptr);
      if (!ok || closed) break;
    }
    return ok;
  });
  close_gently(socket);
  return served;
}

}  // namespace prima::server

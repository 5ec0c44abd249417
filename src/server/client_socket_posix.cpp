#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/client_socket.h"

namespace prima::server {

namespace {

// For what a client still sends when it has its answer.
constexpr Duration kDrainLimit = std::chrono::milliseconds(100);
constexpr std::size_t kMostDrained = 1 << 20;

SocketAddress printed(const sockaddr_storage& address, socklen_t length) {
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  if (::getnameinfo(reinterpret_cast<const sockaddr*>(&address), length, host.data(), host.size(),
                    port.data(), port.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return {};
  }
  return {host.data(), std::atoi(port.data())};
}

}  // namespace

bool wait_for(socket_t socket, SocketEvent event, Duration limit) {
  pollfd entry{.fd = socket,
               .events = static_cast<short>(event == SocketEvent::readable ? POLLIN : POLLOUT),
               .revents = 0};
  const Instant end = SystemClock().now() + limit;
  for (Duration left = limit;; left = end - SystemClock().now()) {
    const auto wait = std::chrono::ceil<std::chrono::milliseconds>(std::max(left, Duration{}));
    const int ready = ::poll(&entry, 1, static_cast<int>(wait.count()));
    if (ready >= 0 || errno != EINTR) return ready > 0;
  }
}

bool is_open(socket_t socket) {
  if (!wait_for(socket, SocketEvent::readable, Duration{})) return true;
  char next = 0;
  return ::recv(socket, &next, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

SocketAddress remote_address(socket_t socket) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getpeername(socket, reinterpret_cast<sockaddr*>(&address), &length) != 0) return {};
  return printed(address, length);
}

SocketAddress local_address(socket_t socket) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &length) != 0) return {};
  return printed(address, length);
}

void close_gently(socket_t socket) {
  ::shutdown(socket, SHUT_WR);
  std::array<char, 16384> dropped;
  const Instant end = SystemClock().now() + kDrainLimit;
  for (std::size_t drained = 0; drained < kMostDrained;) {
    const Duration left = end - SystemClock().now();
    if (left <= Duration{} || !wait_for(socket, SocketEvent::readable, left)) break;
    const ssize_t n = ::recv(socket, dropped.data(), dropped.size(), MSG_DONTWAIT);
    if (n <= 0) break;
    drained += static_cast<std::size_t>(n);
  }
  ::shutdown(socket, SHUT_RDWR);
  ::close(socket);
}

}  // namespace prima::server

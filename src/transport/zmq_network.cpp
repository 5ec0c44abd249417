#include "transport/zmq_network.h"

#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>

#include <zmq.hpp>

#include "base/log.h"

namespace prima::transport {
namespace {

using std::chrono::milliseconds;

constexpr int kQueuedMessages = 1024;  // per direction and peer; the ring's own limit is lower
constexpr milliseconds kHandshakeTimeout(
    5000);  // a silent stranger's connection is closed after this
constexpr milliseconds kReconnectFirst(50);
constexpr milliseconds kReconnectMax(1000);
constexpr milliseconds kLinger(300);  // for a last word (release, failure) at the end
constexpr int kKeepAliveIdleSeconds = 10;
constexpr char kZapDomain[] = "prima";

int to_int(milliseconds duration) { return static_cast<int>(duration.count()); }

void set_key(zmq::socket_t& socket, int option, const Key& key) {
  if (zmq_setsockopt(socket.handle(), option, key.data(), key.size()) != 0) throw zmq::error_t();
}

zmq::socket_t make_socket(zmq::context_t& context, zmq::socket_type type) {
  zmq::socket_t socket(context, type);
  socket.set(zmq::sockopt::linger, to_int(kLinger));
  socket.set(zmq::sockopt::sndhwm, kQueuedMessages);
  socket.set(zmq::sockopt::rcvhwm, kQueuedMessages);
  socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(kMaxFrameBytes));
  socket.set(zmq::sockopt::handshake_ivl, to_int(kHandshakeTimeout));
  socket.set(zmq::sockopt::reconnect_ivl, to_int(kReconnectFirst));
  socket.set(zmq::sockopt::reconnect_ivl_max, to_int(kReconnectMax));
  socket.set(zmq::sockopt::tcp_keepalive, 1);
  socket.set(zmq::sockopt::tcp_keepalive_idle, kKeepAliveIdleSeconds);
  return socket;
}

// A socket, and a way for other threads to end its wait.
class Waitable {
 public:
  Waitable(zmq::context_t& context, zmq::socket_t socket)
      : socket_(std::move(socket)),
        wake_in_(context, zmq::socket_type::pair),
        wake_out_(context, zmq::socket_type::pair) {
    static std::atomic<std::uint64_t> count{0};
    const std::string name = "inproc://wake-" + std::to_string(count++);
    wake_in_.bind(name);
    wake_out_.connect(name);
  }

  zmq::socket_t& socket() { return socket_; }

  void interrupt() {
    if (interrupted_.exchange(true)) return;
    const std::lock_guard lock(wake_mutex_);
    wake_out_.send(zmq::const_buffer("", 0), zmq::send_flags::dontwait);
  }

  // The first frame of a message; nullopt at the deadline or when interrupted.
  std::optional<zmq::message_t> receive(Instant deadline) {
    zmq::message_t frame;
    if (try_receive(frame)) return frame;
    while (true) {
      const Instant now = std::chrono::steady_clock::now();
      if (now >= deadline) return std::nullopt;
      zmq_pollitem_t items[2] = {{socket_.handle(), 0, ZMQ_POLLIN, 0},
                                 {wake_in_.handle(), 0, ZMQ_POLLIN, 0}};
      const auto wait = std::chrono::ceil<milliseconds>(deadline - now);
      if (zmq_poll(items, 2, static_cast<long>(wait.count())) < 0) continue;  // a signal: wait on
      if ((items[0].revents & ZMQ_POLLIN) != 0 && try_receive(frame)) return frame;
      if ((items[1].revents & ZMQ_POLLIN) != 0) {
        zmq::message_t wake;
        (void)wake_in_.recv(wake, zmq::recv_flags::dontwait);
        interrupted_ = false;
        return std::nullopt;
      }
    }
  }

  bool try_receive(zmq::message_t& frame) {
    while (true) {
      if (zmq_msg_recv(frame.handle(), socket_.handle(), ZMQ_DONTWAIT) >= 0) return true;
      if (zmq_errno() != EINTR) return false;
    }
  }

 private:
  zmq::socket_t socket_;
  zmq::socket_t wake_in_;
  zmq::socket_t wake_out_;
  std::mutex wake_mutex_;
  std::atomic<bool> interrupted_{false};
};

// The rest of a message whose first frame is here; nullopt if it is larger than allowed.
std::optional<Message> receive_rest(Waitable& from, const zmq::message_t& first) {
  Message message;
  const auto* const header = static_cast<const std::byte*>(first.data());
  message.header.assign(header, header + first.size());
  Bytes total = first.size();
  bool more = first.more();
  while (more) {
    auto frame = std::make_shared<zmq::message_t>();
    if (!from.try_receive(*frame)) return std::nullopt;  // never: messages arrive whole
    more = frame->more();
    total += frame->size();
    if (total > kMaxMessageBytes) continue;
    const std::span bytes(static_cast<const std::byte*>(frame->data()), frame->size());
    message.payload.append({std::move(frame), bytes});
  }
  if (total > kMaxMessageBytes) {
    log::warn("Dropped a message of {}", format_bytes(total));
    return std::nullopt;
  }
  return message;
}

// A frame that refers to a piece's bytes and keeps its owner.
zmq::message_t borrowed_frame(const std::shared_ptr<const void>& owner,
                              std::span<const std::byte> bytes) {
  auto* const keep = new std::shared_ptr<const void>(owner);
  const auto release = [](void*, void* hint) {
    delete static_cast<std::shared_ptr<const void>*>(hint);
  };
  // ZeroMQ only reads the bytes; its interface has no const.
  return {const_cast<std::byte*>(bytes.data()), bytes.size(), release, keep};
}

bool send_frame(zmq::socket_t& socket, zmq::message_t frame, bool more) {
  const int flags = ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0);
  while (true) {
    if (zmq_msg_send(frame.handle(), socket.handle(), flags) >= 0) return true;
    if (zmq_errno() != EINTR) return false;
  }
}

bool send_message(zmq::socket_t& socket, const Message& message) {
  const auto pieces = message.payload.pieces();
  if (!send_frame(socket, {message.header.data(), message.header.size()}, !pieces.empty())) {
    return false;
  }
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    std::span<const std::byte> rest = pieces[i].bytes;
    while (!rest.empty()) {
      const auto part = rest.first(std::min(rest.size(), kPayloadFrameBytes));
      rest = rest.subspan(part.size());
      const bool more = !rest.empty() || i + 1 < pieces.size();
      // After the first frame the others of a message are always taken.
      if (!send_frame(socket, borrowed_frame(pieces[i].owner, part), more)) return false;
    }
  }
  return true;
}

class ZmqListener final : public Listener {
 public:
  ZmqListener(zmq::context_t& context, zmq::socket_t socket, std::uint16_t port)
      : waitable_(context, std::move(socket)), port_(port) {}

  std::uint16_t port() const override { return port_; }

  std::optional<Incoming> receive(Instant deadline) override {
    while (auto identity = waitable_.receive(deadline)) {
      zmq::message_t first;
      if (!identity->more() || !waitable_.try_receive(first)) continue;
      Incoming incoming{.peer = identity->to_string(), .address = {}, .message = {}};
      if (const char* address = zmq_msg_gets(first.handle(), "Peer-Address")) {
        incoming.address = address;
      }
      auto message = receive_rest(waitable_, first);
      if (!message) continue;
      incoming.message = std::move(*message);
      return incoming;
    }
    return std::nullopt;
  }

  Status send(const PeerId& peer, Message message) override {
    if (!send_frame(waitable_.socket(), zmq::message_t(peer), true) ||
        !send_message(waitable_.socket(), message)) {
      return fail(ErrorCode::unavailable, "The connection to a device is gone");
    }
    return {};
  }

  void interrupt() override { waitable_.interrupt(); }

 private:
  Waitable waitable_;
  const std::uint16_t port_;
};

class ZmqLink final : public Link {
 public:
  ZmqLink(zmq::context_t& context, zmq::socket_t socket, Endpoint endpoint)
      : waitable_(context, std::move(socket)), endpoint_(std::move(endpoint)) {}

  Status send(Message message) override {
    if (!send_message(waitable_.socket(), message)) {
      return fail(ErrorCode::unavailable,
                  to_string(endpoint_) + " does not take messages: its queue is full",
                  "Check the network between the devices");
    }
    return {};
  }

  std::optional<Message> receive(Instant deadline) override {
    while (auto first = waitable_.receive(deadline)) {
      if (auto message = receive_rest(waitable_, *first)) return message;
    }
    return std::nullopt;
  }

  void interrupt() override { waitable_.interrupt(); }

 private:
  Waitable waitable_;
  const Endpoint endpoint_;
};

class SystemThread final : public Thread {
 public:
  explicit SystemThread(std::function<void()> body) : thread_(std::move(body)) {}
  ~SystemThread() override { thread_.join(); }

 private:
  std::thread thread_;
};

class ZmqNetwork final : public Network {
 public:
  explicit ZmqNetwork(const DerivedKeys& keys) : keys_(keys), gate_(context_, ZMQ_REP) {
    gate_.bind("inproc://zeromq.zap.01");
    gatekeeper_ = std::thread([this] { keep_gate(); });
  }

  ~ZmqNetwork() override {
    context_.shutdown();
    gatekeeper_.join();
  }

  const Clock& clock() const override { return clock_; }

  Result<std::unique_ptr<Listener>> listen(std::uint16_t port) override {
    try {
      zmq::socket_t socket = make_socket(context_, zmq::socket_type::router);
      socket.set(zmq::sockopt::router_mandatory, true);
      socket.set(zmq::sockopt::zap_domain, kZapDomain);
      socket.set(zmq::sockopt::curve_server, true);
      set_key(socket, ZMQ_CURVE_SECRETKEY, keys_.listener.secret_key);
      socket.bind("tcp://*:" + (port == 0 ? std::string("*") : std::to_string(port)));
      const std::string bound = socket.get(zmq::sockopt::last_endpoint);
      const auto bound_port = std::stoul(bound.substr(bound.rfind(':') + 1));
      return std::make_unique<ZmqListener>(context_, std::move(socket),
                                           static_cast<std::uint16_t>(bound_port));
    } catch (const zmq::error_t& error) {
      return fail(ErrorCode::unavailable,
                  "Port " + std::to_string(port) + " can't be listened on: " + error.what(),
                  "Choose another with --port");
    }
  }

  Result<std::unique_ptr<Link>> connect(const Endpoint& endpoint) override {
    try {
      zmq::socket_t socket = make_socket(context_, zmq::socket_type::dealer);
      set_key(socket, ZMQ_CURVE_SERVERKEY, keys_.listener.public_key);
      set_key(socket, ZMQ_CURVE_PUBLICKEY, keys_.link.public_key);
      set_key(socket, ZMQ_CURVE_SECRETKEY, keys_.link.secret_key);
      socket.connect("tcp://" + to_string(endpoint));
      return std::make_unique<ZmqLink>(context_, std::move(socket), endpoint);
    } catch (const zmq::error_t& error) {
      return fail(ErrorCode::invalid_argument, to_string(endpoint) + ": " + error.what(),
                  "Give HOST:PORT, for example 192.168.1.7:5000");
    }
  }

  std::unique_ptr<Thread> start_thread(const char*, std::function<void()> body) override {
    return std::make_unique<SystemThread>(std::move(body));
  }

 private:
  // ZeroMQ asks here (RFC 27, ZAP) whether a connection with this public key may be made.
  void keep_gate() {
    while (true) {
      // version, request id, domain, address, identity, mechanism, credentials
      std::vector<zmq::message_t> frames;
      do {
        zmq::message_t frame;
        if (zmq_msg_recv(frame.handle(), gate_.handle(), 0) < 0) {
          if (zmq_errno() == EINTR) continue;
          gate_.close();  // the context ends
          return;
        }
        frames.push_back(std::move(frame));
      } while (frames.empty() || frames.back().more());
      if (frames.size() < 2) continue;
      const bool known =
          frames.size() == 7 && frames[5].to_string_view() == "CURVE" &&
          frames[6].size() == sizeof(Key) &&
          std::memcmp(frames[6].data(), keys_.link.public_key.data(), sizeof(Key)) == 0;
      send_frame(gate_, zmq::message_t(std::string("1.0")), true);
      send_frame(gate_, std::move(frames[1]), true);
      send_frame(gate_, zmq::message_t(std::string(known ? "200" : "400")), true);
      send_frame(gate_, zmq::message_t(std::string(known ? "" : "unknown key")), true);
      send_frame(gate_, zmq::message_t(), true);
      send_frame(gate_, zmq::message_t(), false);
    }
  }

  const DerivedKeys keys_;
  const SystemClock clock_;
  zmq::context_t context_;
  zmq::socket_t gate_;
  std::thread gatekeeper_;
};

}  // namespace

std::unique_ptr<Network> make_zmq_network(const DerivedKeys& keys) {
  return std::make_unique<ZmqNetwork>(keys);
}

}  // namespace prima::transport

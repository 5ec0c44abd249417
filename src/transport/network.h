// How nodes reach each other: a listener receives from anyone who holds the cluster key and can
// answer whom it has heard from; a link leads to one listener. Messages on one link arrive in
// order, whole, or not at all; across links in any order. Both ways of the implementation, sockets
// (zmq_network.h) and one process under simulated time (simulated_network.h), keep to that.
//
// A Network is thread-safe. A Listener or Link is used by one thread at a time, except interrupt(),
// which any thread may call.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "transport/message.h"

namespace prima::transport {

struct Endpoint {
  std::string host;
  std::uint16_t port = 0;

  friend auto operator<=>(const Endpoint&, const Endpoint&) = default;
};

std::string to_string(const Endpoint& endpoint);

// "192.168.1.7:5000", "laptop:5000".
Result<Endpoint> parse_endpoint(const std::string& text);

// One sender as a listener knows it, for as long as its connection lasts.
using PeerId = std::string;

struct Incoming {
  PeerId peer;
  std::string address;  // the sender's host
  Message message;
};

class Listener {
 public:
  virtual ~Listener() = default;
  virtual std::uint16_t port() const = 0;

  // The next message; nullopt at the deadline (at once if it is past and nothing is there) or when
  // interrupted.
  virtual std::optional<Incoming> receive(Instant deadline) = 0;

  // Never blocks. Fails with unavailable if the peer is gone or takes nothing.
  virtual Status send(const PeerId& peer, Message message) = 0;

  // Makes the receive() under way, or else the next one, return early.
  virtual void interrupt() = 0;
};

class Link {
 public:
  virtual ~Link() = default;

  // Never blocks: queues the message, also while the connection is being made or made again. Fails
  // with unavailable if the queue is full.
  virtual Status send(Message message) = 0;
  virtual std::optional<Message> receive(Instant deadline) = 0;
  virtual void interrupt() = 0;
};

// Joined when destroyed.
class Thread {
 public:
  virtual ~Thread() = default;
};

class Network {
 public:
  virtual ~Network() = default;
  virtual const Clock& clock() const = 0;

  // `port` 0: any free one. Fails with unavailable if it is taken.
  virtual Result<std::unique_ptr<Listener>> listen(std::uint16_t port) = 0;

  // Does not wait for the connection. Fails with invalid_argument on an address that cannot be.
  virtual Result<std::unique_ptr<Link>> connect(const Endpoint& endpoint) = 0;

  // Threads come from the network, so that simulated time knows all who may wait for it.
  virtual std::unique_ptr<Thread> start_thread(const char* name, std::function<void()> body) = 0;
};

}  // namespace prima::transport

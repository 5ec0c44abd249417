// The thread that generates, and what others may ask of it.
//
//                    ready()                 drain()                all have ended, or told so
//     loading ----------------> ready -------------------> draining --------------------------->
//     stopped
//        ^  \                     |                            ^
//        |   +--- drain() --------|----------------------------+
//        +------------------------+
//          loading(): the ring was lost, another one forms
//
// HTTP threads: submit() and cancel(), state(), metrics. The generating thread: loading(), drive().
// What drive() gives away goes through mailboxes, so no callback runs under a client's control.
//
// Thread-safe, except that drive() and loading() belong to one thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "generate/batcher.h"
#include "ring/ring.h"
#include "server/mailbox.h"
#include "server/metrics.h"
#include "text/sampler.h"

namespace prima::server {

struct ServiceState {
  enum class Phase { loading, ready, draining, stopped } phase = Phase::loading;
  std::string progress;  // while loading, for a person to read
};

struct ServiceOptions {
  std::uint32_t max_pending = 160;                  // requests queued and running
  Duration drain_limit = std::chrono::seconds(30);  // for running answers, once asked to stop
  // How often a ring with nothing to do is asked whether it should form anew.
  Duration replan_interval = std::chrono::seconds(5);
};

class Service {
 public:
  Service(const ServiceOptions& options, const Clock& clock) : options_(options), clock_(clock) {}

  // ---- HTTP threads ----

  ServiceState state() const;

  using Ticket = std::uint64_t;

  // The mailbox hears of it as `choice`; its end always comes. Fails with resource_exhausted where
  // too many wait, and with unavailable where there is no ring or it stops.
  Result<Ticket> submit(generate::Request request, text::Sampler sampler,
                        std::shared_ptr<Mailbox> mailbox, std::size_t choice);
  void cancel(Ticket ticket);

  // In Prometheus' text format.
  std::string metrics() const;

  // ---- Any thread ----

  // No new requests; drive() returns when the running ones have ended, or the limit has come.
  void drain();
  bool is_draining() const;

  // ---- The generating thread ----

  void loading(std::string progress);

  // Serves until drained, or until there is nothing to do and the ring should form anew (both
  // success), or until the ring fails.
  Status drive(generate::Batcher& batcher, ring::Ring& ring);
  void stopped();

 private:
  struct Submission {
    Ticket ticket = 0;
    generate::Request request;
    text::Sampler sampler;
    std::shared_ptr<Mailbox> mailbox;
    std::size_t choice = 0;
  };
  struct Cancellation {
    Ticket ticket = 0;
  };

  bool has_news() const;
  bool await_news(Duration limit);  // or a wish to drain; false: there was none
  void take_inbox(generate::Batcher& batcher);
  void start(generate::Batcher& batcher, Submission submission);
  void refuse_inbox(const Error& error);
  void end(Ticket ticket, Mailbox& mailbox, std::size_t choice, Result<generate::Answer> answer);
  void publish(const generate::Batcher& batcher);

  const ServiceOptions options_;
  const Clock& clock_;
  mutable std::mutex mutex_;
  std::condition_variable news_;
  ServiceState state_;
  std::deque<std::variant<Submission, Cancellation>> inbox_;
  std::uint32_t pending_ = 0;  // submitted and not ended
  Ticket next_ticket_ = 1;
  Metrics metrics_;

  // Of the generating thread alone.
  std::map<Ticket, generate::Batcher::Id> running_;
};

}  // namespace prima::server

// One device's part in a session: takes steps in, runs its windows, passes them on.
//
// A step at a node, for each hop it makes there:
//
//                accept()                    run_one()                run_one()
//     on a link ----------> queued ------------------------> computing ---------> sent on
//         |  head: start() ---^                                  |
//         |                                                      +--> arrived at the head with its
//         |                                                           way done: accept() ->
//         returned
//         +--> dropped: of another session, of an earlier epoch, or a message that came before
//         +--> the session fails: bytes that contradict the session, or a message that is missing
//
//     advance_epoch(): all that is queued is dropped, all sequences are forgotten
//
// Messages on each link are counted, so that a lost one is noticed and a repeated one dropped. Only
// the head starts steps and it limits how many are under way; that bounds what can be queued here.
//
// Thread-compatible: belongs to the thread that computes. progress() is thread-safe.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "compute/executor.h"
#include "ring/messages.h"
#include "ring/wave_order.h"
#include "transport/network.h"

namespace prima::ring {

struct NodeOptions {
  SessionShape shape;
  Route route;
  std::uint32_t device = kHead;
  std::vector<std::string> device_names;
};

// What has passed a node so far, for others to see whether a link is stuck.
struct NodeProgress {
  bool idle = false;
  std::map<std::uint32_t, LinkCount> sent;
  std::map<std::uint32_t, LinkCount> received;
};

class Node {
 public:
  // The step that came back to the head, with its hidden state (n_embd, n_outputs).
  struct Returned {
    compute::Step step;
    std::vector<float> hidden;
    std::vector<HopRecord> timings;
  };

  // `links`: to each device that links_of(route) says this one sends to. The executor and clock
  // must outlive the node.
  Node(NodeOptions options, compute::Executor& executor, const Clock& clock,
       std::map<std::uint32_t, std::unique_ptr<transport::Link>> links);

  // Sends the first message on each link.
  Status open_links();

  // Takes a message. Fails with corrupt or unavailable where the session cannot go on.
  Status accept(transport::Message message);

  // At the head, before the first step: whether steps travel in waves (wave_order.h).
  void set_waves(bool waves) { in_waves_ = waves; }

  // At the head: hidden is (n_embd, n_tokens). `more`: another step is started right after this
  // one.
  Status start(const compute::Step& step, std::vector<float> hidden, bool more = false);
  std::optional<Returned> take_returned();
  bool has_returned() const { return !returned_.empty(); }

  // Whether run_one() has something to do.
  bool ready() const { return next_index().has_value(); }

  // Runs one hop of one step and sends it on.
  Status run_one();

  // Drops all of earlier epochs. Does nothing if the epoch is not new.
  void advance_epoch(std::uint32_t epoch);
  std::uint32_t epoch() const { return epoch_; }

  // Devices whose links to this one are open.
  const std::vector<std::uint32_t>& open_from() const { return open_from_; }

  // Of all steps begun here.
  std::uint64_t tokens() const { return tokens_; }

  void set_idle(bool idle);
  NodeProgress progress() const;

 private:
  struct Queued {
    std::uint32_t hop = 0;
    compute::Step step;
    std::vector<float> hidden;
    std::vector<HopRecord> timings;
    Instant since;
    bool more = false;
  };

  const Hop& hop(std::uint32_t index) const { return options_.route.hops[index]; }
  std::uint32_t n_hops() const { return static_cast<std::uint32_t>(options_.route.hops.size()); }
  const std::string& name(std::uint32_t device) const { return options_.device_names[device]; }
  std::optional<std::size_t> next_index() const;
  bool has_followers(const Queued& queued) const;
  Status count_arrival(const DataHeader& header, Bytes bytes, bool& repeated);
  Status check_step(const DataHeader& header) const;
  Status send_on(Queued queued);
  Status send(std::uint32_t device, DataHeader header, transport::Payload payload);

  const NodeOptions options_;
  compute::Executor& executor_;
  const Clock& clock_;
  const std::map<std::uint32_t, std::unique_ptr<transport::Link>> links_;
  const std::uint32_t first_hop_here_;
  const std::uint32_t last_hop_here_;
  std::uint32_t epoch_ = 0;
  std::deque<Queued> queue_;
  std::deque<Returned> returned_;
  std::map<std::uint64_t, compute::Step> begun_;  // by id: between their first and last hop here
  bool in_waves_ = false;
  std::optional<WaveOrder> waves_;     // only at the way's first device
  std::vector<std::uint32_t> passes_;  // by hop, for the waves
  std::vector<std::uint32_t> open_from_;
  std::uint64_t tokens_ = 0;

  mutable std::mutex progress_mutex_;
  NodeProgress progress_;
};

}  // namespace prima::ring

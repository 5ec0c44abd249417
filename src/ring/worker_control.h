// A worker's control thread, for as long as it knows one head: it says hello, keeps the heartbeat,
// and takes the head's messages while the worker computes or loads.
//
//     greeting --Welcome--> member --silence, Release--> left
//         |                                               ^
//         +--Refusal, silence-----------------------------+
//
// Thread-safe.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "ring/messages.h"
#include "ring/node.h"
#include "transport/network.h"

namespace prima::ring {

class WorkerControl {
 public:
  enum class State { greeting, member, left };

  // `on_change` is called from the control thread when there is news.
  WorkerControl(transport::Network& network, std::unique_ptr<transport::Link> link, Hello hello,
                std::function<void()> on_change);
  ~WorkerControl();  // tells the head that the worker leaves, unless it knows
  WorkerControl(const WorkerControl&) = delete;
  WorkerControl& operator=(const WorkerControl&) = delete;

  State state();
  // Why it left.
  std::optional<Error> reason();
  std::optional<Assignment> take_assignment();
  // ProfileRequest or LinkRequest, each to be answered.
  std::optional<ControlMessage> take_question();
  // Steps of earlier epochs are not worth computing any more.
  std::uint32_t epoch() const { return epoch_; }

  void send(ControlMessage message);

  // What heartbeats report. A session of 0: none.
  void report(std::uint64_t session, std::function<NodeProgress()> progress);

 private:
  void run();
  void take(ControlMessage message);
  void beat();
  void leave(Error reason);

  transport::Network& network_;
  const std::unique_ptr<transport::Link> link_;
  const Hello hello_;
  const std::function<void()> on_change_;

  std::mutex mutex_;
  State state_ = State::greeting;
  std::optional<Error> reason_;
  std::optional<Assignment> assignment_;
  std::optional<ControlMessage> question_;  // the last: a head asks one thing at a time
  std::vector<ControlMessage> outgoing_;
  std::uint64_t session_ = 0;
  std::function<NodeProgress()> progress_;
  std::chrono::milliseconds interval_{500};
  std::chrono::milliseconds timeout_{2000};  // for the welcome; the head says its own then
  bool head_knows_ = false;
  bool stopping_ = false;
  std::atomic<std::uint32_t> epoch_{0};

  std::unique_ptr<transport::Thread> thread_;  // last: it uses all of the above
};

}  // namespace prima::ring

// What `prima join` runs: serves head after head.
//
//     searching --find_heads--> greeting --welcome--> waiting --assignment--> loading
//        ^                         |                     |                       |
//        |                         v                     v                       v
//        +<-- refused, silent head, released, lost head, failure --------+--- linking
//        |                                                               |       |
//        +<--------------------------------------------------------------+--- serving
//
//   searching  knows no head that wants it; looks for one every kSearchInterval
//   greeting   has said hello, awaits the welcome
//   waiting    belongs to a head that gathers devices; answers what its planner asks
//   loading    reads its layers; heartbeats go on from the control thread
//   linking    waits for the neighbour's first message
//   serving    runs steps; sleeps while there are none
//
// stop() ends it in every state, at the next message boundary.
//
// run() belongs to one thread; stop() may be called from any.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "compute/executor.h"
#include "ring/messages.h"
#include "transport/network.h"

namespace prima::ring {

class WorkerControl;
class Node;

struct WorkerStatus {
  enum class State { searching, greeting, waiting, profiling, loading, linking, serving };

  State state = State::searching;
  std::string head;  // where it is
  std::vector<compute::LayerRange> windows;
  Bytes loaded = 0;
  Bytes to_load = 0;
  compute::ExecutorMemory memory;
  std::uint64_t tokens = 0;  // that passed through in this session
  std::string last_error;    // why the last session ended, if not because its head had finished
};

const char* to_string(WorkerStatus::State state);

struct WorkerOptions {
  std::string device_name;
  // Heads that may be there now; called while searching.
  std::function<std::vector<transport::Endpoint>()> find_heads;
  // Opens the model that the assignment names and loads this device's windows of it.
  std::function<Result<std::unique_ptr<compute::Executor>>(const Assignment&,
                                                           const compute::LoadProgress&)>
      make_executor;
  // What this device can do with that model (profile/device_profile_json.h); `go_on` is asked now
  // and then. Empty: planners do without.
  std::function<Result<std::string>(const ProfileRequest&, const std::function<bool()>& go_on)>
      profile{};
  // Called on every change, from the thread that runs.
  std::function<void(const WorkerStatus&)> on_status;
};

class Worker {
 public:
  static Result<std::unique_ptr<Worker>> create(transport::Network& network, WorkerOptions options);

  // Returns after stop().
  void run();
  void stop();

 private:
  struct Past {
    Instant ended;
    bool silent = false;
  };

  Worker(transport::Network& network, std::unique_ptr<transport::Listener> listener,
         WorkerOptions options);

  std::optional<transport::Endpoint> choose_head();
  // Until the head has finished or is lost. Why it was of no use, if so: unavailable where it does
  // not answer.
  std::optional<ErrorCode> join(const transport::Endpoint& head);
  void answer(const ControlMessage& question, const transport::Endpoint& head,
              WorkerControl& control);
  void answer_while_serving(const ControlMessage& question, WorkerControl& control);
  Status serve(const Assignment& assignment, const transport::Endpoint& head,
               WorkerControl& control);
  Result<std::unique_ptr<compute::Executor>> load(const Assignment& assignment,
                                                  WorkerControl& control);
  Status run_steps(const Assignment& assignment, Node& node, compute::Executor& executor,
                   WorkerControl& control);
  void set_state(WorkerStatus::State state);
  void set_aside(transport::Message message);

  transport::Network& network_;
  const std::unique_ptr<transport::Listener> listener_;  // of data; its interrupts are all news
  const WorkerOptions options_;
  const std::uint64_t id_;
  WorkerStatus status_;
  std::vector<transport::Message> early_;     // came before the assignment they belong to
  std::map<transport::Endpoint, Past> past_;  // with heads that were of no use
  std::atomic<bool> stopping_{false};
};

}  // namespace prima::ring

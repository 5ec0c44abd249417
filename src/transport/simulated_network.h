// A network inside one process, under simulated time: the same node code runs on it as on sockets,
// and delays, cuts and stopped devices are tested without sleeping.
//
// Each thread of the simulation runs alone until it waits; when all wait, time jumps to the next
// arrival or deadline. So a simulation is deterministic, given its seed.
//
//     SimulatedWorld world(seed);
//     world.run([&] {                          // this thread takes part from here
//       auto worker = world.host("worker").start_thread("worker", [&] { ... });
//       ...
//     });
//
// All methods may be called from any thread that takes part.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "transport/network.h"

namespace prima::transport {

struct SimulatedLink {
  Duration delay_min = std::chrono::microseconds(100);
  Duration delay_max = std::chrono::microseconds(100);
  double bytes_per_second = 1e9;
  bool cut = false;  // messages wait until it is restored

  // Called on each message; what it returns arrives instead (nothing, to lose it).
  std::function<std::vector<Message>(Message)> tamper = {};
};

class SimulatedWorld {
 public:
  explicit SimulatedWorld(std::uint64_t seed = 1);
  ~SimulatedWorld();

  // Runs `body` as a thread of the simulation and returns when it does. Threads that it started
  // must be joined by then.
  void run(const std::function<void()>& body);

  // The network as the device of this name sees it; lives as long as the world.
  Network& host(const std::string& name);
  const Clock& clock() const;

  // The calling thread takes this long: computing, say.
  void sleep(Duration duration);

  void set_link(const std::string& from, const std::string& to, SimulatedLink link);
  void set_all_links(SimulatedLink link);

  // A stopped device's threads don't run until it is resumed.
  void stop(const std::string& host);
  void resume(const std::string& host);

  struct State;

 private:
  std::unique_ptr<State> state_;
};

}  // namespace prima::transport

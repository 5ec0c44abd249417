// SIGTERM and Ctrl-C for a server: the first asks it to stop, a second ends it at once.
//
// Before other threads are started: they inherit that these signals do not interrupt them.
#pragma once

#include <atomic>
#include <functional>
#include <thread>

namespace prima::cli {

class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // `on_stop` is called once, from a thread of its own.
  void start(std::function<void()> on_stop);

 private:
  std::atomic<bool> ends_{false};
  std::thread thread_;
};

}  // namespace prima::cli

#include "cli/stop_signals.h"

#include <csignal>
#include <ctime>
#include <utility>

#include <unistd.h>

#include "cli/exit_code.h"

namespace prima::cli {

namespace {

sigset_t stop_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGINT);
  ::sigaddset(&set, SIGTERM);
  return set;
}

// How soon the destructor's wish is noticed.
constexpr timespec kPoll{.tv_sec = 0, .tv_nsec = 100'000'000};

}  // namespace

StopSignals::StopSignals() {
  const sigset_t set = stop_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

void StopSignals::start(std::function<void()> on_stop) {
  thread_ = std::thread([this, on_stop = std::move(on_stop)] {
    const sigset_t set = stop_signals();
    bool asked = false;
    while (!ends_) {
      if (::sigtimedwait(&set, nullptr, &kPoll) < 0) continue;
      if (std::exchange(asked, true)) ::_exit(kInterrupted);
      on_stop();
    }
  });
}

StopSignals::~StopSignals() {
  ends_ = true;
  if (thread_.joinable()) thread_.join();
}

}  // namespace prima::cli

#include "cli/interrupt.h"

#include <atomic>

#include <unistd.h>

#include "cli/exit_code.h"

namespace prima::cli {

namespace {

std::atomic<bool> g_interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "used in a signal handler");

void on_interrupt(int) {
  if (g_interrupted.exchange(true)) ::_exit(kInterrupted);
}

}  // namespace

InterruptGuard::InterruptGuard() {
  g_interrupted = false;
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  ::sigemptyset(&action.sa_mask);
  // Without SA_RESTART, so that waiting for a line of input ends.
  ::sigaction(SIGINT, &action, &before_);
}

InterruptGuard::~InterruptGuard() { ::sigaction(SIGINT, &before_, nullptr); }

bool InterruptGuard::interrupted() const { return g_interrupted; }
void InterruptGuard::clear() { g_interrupted = false; }

}  // namespace prima::cli

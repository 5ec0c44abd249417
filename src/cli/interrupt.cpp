#include "cli/interrupt.h"

#include <array>
#include <atomic>
#include <cerrno>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "cli/exit_code.h"

namespace prima::cli {

namespace {

std::atomic<bool> g_interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "used in a signal handler");

// The handler writes a byte, so that a wait sees the signal whichever thread took it, and whenever.
std::array<int, 2> g_wake_pipe{-1, -1};

void on_interrupt(int) {
  if (g_interrupted.exchange(true)) ::_exit(kInterrupted);
  const int error = errno;
  const char byte = 0;
  // Where the pipe is full, the wait ends anyway.
  [[maybe_unused]] const ssize_t written = ::write(g_wake_pipe[1], &byte, 1);
  errno = error;
}

}  // namespace

InterruptGuard::InterruptGuard() {
  g_interrupted = false;
  if (::pipe(g_wake_pipe.data()) == 0) {
    for (const int end : g_wake_pipe) {
      ::fcntl(end, F_SETFD, FD_CLOEXEC);
      ::fcntl(end, F_SETFL, O_NONBLOCK);
    }
  }
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  action.sa_flags = SA_RESTART;
  ::sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, &before_);
}

InterruptGuard::~InterruptGuard() {
  ::sigaction(SIGINT, &before_, nullptr);
  for (int& end : g_wake_pipe) {
    if (end >= 0) ::close(end);
    end = -1;
  }
}

bool InterruptGuard::interrupted() const { return g_interrupted; }

void InterruptGuard::clear() {
  std::array<char, 16> bytes;
  while (::read(g_wake_pipe[0], bytes.data(), bytes.size()) > 0) {
  }
  g_interrupted = false;
}

bool InterruptGuard::wait_readable(int descriptor) const {
  while (!interrupted()) {
    std::array<pollfd, 2> ends{{{descriptor, POLLIN, 0}, {g_wake_pipe[0], POLLIN, 0}}};
    const int n = ::poll(ends.data(), ends.size(), -1);
    if (n < 0 && errno != EINTR) return true;  // reading will say what is wrong
    if (n > 0 && ends[0].revents != 0 && !interrupted()) return true;
  }
  return false;
}

}  // namespace prima::cli

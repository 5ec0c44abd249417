// Ctrl-C: the first ends what is going on, the second the program.
//
//     idle --SIGINT--> interrupted --SIGINT--> the program ends at once, with status 130
//       ^                  |
//       +----- clear() ----+
//
// At most one object at a time. interrupted() is thread-safe.
#pragma once

#include <csignal>

namespace prima::cli {

class InterruptGuard {
 public:
  InterruptGuard();   // from now on SIGINT is caught
  ~InterruptGuard();  // as before
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  bool interrupted() const;
  void clear();

  // Waits until there is something to read, or the end; false if Ctrl-C came first, even if it came
  // before the call.
  bool wait_readable(int descriptor) const;

 private:
  struct sigaction before_ {};
};

}  // namespace prima::cli

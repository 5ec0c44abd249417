// Time, injectable, so that deadlines and delays are tested without sleeping.
//
// Thread-safe.
#pragma once

#include <atomic>
#include <chrono>

namespace prima {

using Duration = std::chrono::nanoseconds;
using Instant = std::chrono::time_point<std::chrono::steady_clock, Duration>;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual Instant now() const = 0;
};

class SystemClock final : public Clock {
 public:
  Instant now() const override { return std::chrono::steady_clock::now(); }
};

// Stands still until a test moves it.
class ManualClock final : public Clock {
 public:
  Instant now() const override { return Instant(Duration(nanoseconds_.load())); }
  void advance(Duration by) { nanoseconds_ += by.count(); }
  void set(Instant to) { nanoseconds_ = to.time_since_epoch().count(); }

 private:
  std::atomic<Duration::rep> nanoseconds_{0};
};

inline double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }
inline Duration share_of(Duration whole, double share) {
  return std::chrono::duration_cast<Duration>(whole * share);
}
inline double milliseconds(Duration duration) { return 1e3 * seconds(duration); }

}  // namespace prima

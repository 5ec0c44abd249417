// Other work for a thread that would only wait: for a disk, for another device. Whoever waits asks
// for it, slice by slice, and looks between two slices whether what it waits for has come. So there
// is no second thread to compete with for processors, and no lock.
//
// Thread-compatible: called from the thread that waits, which it must not wait for.
#pragma once

#include <cstdint>

#include "base/clock.h"

namespace prima {

class IdleWork {
 public:
  // Waits at the same place take about as long each time round: a stage of weights, or the ring.
  using Place = std::uint32_t;
  static constexpr Place kRing = UINT32_MAX;

  virtual ~IdleWork() = default;

  // Nothing to do since `waited`. Either does a slice of its work and returns true: look again; or
  // does nothing and returns false: wait now, for a change at least.
  virtual bool work(Place place, Duration waited) = 0;

  // What was waited for was there after so long, found at once or after the slice before.
  virtual void ended(Place place, Duration waited) = 0;
};

}  // namespace prima

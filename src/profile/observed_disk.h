// How fast weights come from disk in generation, against what this device's profile says.
//
// What was read in a span bounds the disk's speed from both sides:
//
//   at least   bytes / all of the span      An idle disk may have been able to do more; and what it
//                                           did beyond that may be an allowance that it saved up
//                                           while it was idle, as throttled disks do.
//   at most    bytes / time with reads      Only where the disk was the limit: layers waited for
//              in flight                    it, and nearly all the time it had as many reads at
//                                           once as there is room for.
//
// So only a profile below the one or above the other is wrong. Where a disk is the limit of
// generation it is hardly ever idle, and both are the same.
//
// Thread-compatible.
#pragma once

#include <optional>

#include "base/clock.h"
#include "compute/executor.h"
#include "profile/observed_ratios.h"

namespace prima::profile {

class ObservedDisk {
 public:
  // 0: nothing is known, and nothing will be learned.
  explicit ObservedDisk(double profiled_bytes_per_second)
      : profiled_bytes_per_second_(profiled_bytes_per_second) {}

  // At some moment in generation, in order of time.
  void add(Instant now, const compute::WeightReads& reads);

  // By what to multiply the profile's figure.
  std::optional<double> correction() const;

 private:
  struct Moment {
    Instant now;
    compute::WeightReads reads;
  };

  const double profiled_bytes_per_second_;
  std::optional<Moment> begin_;  // of the span
  ObservedRatios at_least_;
  ObservedRatios at_most_;
};

}  // namespace prima::profile

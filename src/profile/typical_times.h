// The time of things that are repeated, on a machine that other programs and a host disturb.
//
// Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "compute/executor.h"
#include "profile/device_profile.h"

namespace prima::profile {

struct Repetition {
  double seconds = 0;
  bool disturbed = false;  // by what is known to be no part of it: counts where there is no other
};

// One of `n` alike things that an executor did in `elapsed`, by what it had read of weights before
// and after: waiting for weights that the system had taken is no part of the time, and disturbs.
Repetition repetition_of(Duration elapsed, std::uint32_t n, const compute::WeightReads& before,
                         const compute::WeightReads& after);

// The median of the seconds that `run(i)` gives, for each i below `n`: what generation will see, on
// a machine that wavers too. After the first of each, for `budget`, whatever took least time so far
// is repeated, so that a disturbance strikes a few repetitions of each and not all of one; what is
// short, a few times whatever `budget` says. The first builds the graph and wakes the threads: it
// counts only where there is no other. Fails with what `run` fails with.
Result<std::vector<double>> typical_times(
    std::size_t n, Duration budget, const Clock& clock,
    const std::function<Result<Repetition>(std::size_t)>& run);

// More tokens cannot take less time, nor more than the same in several steps. What disturbs only
// adds time, so where times contradict each other, the shorter ones are right.
void make_consistent(TokenTimes& times);

// Of two measurements of the same.
TokenTimes least_of(TokenTimes one, const TokenTimes& other);

// Which of these times of alike things, each over its size, look disturbed beside the least.
std::vector<std::size_t> suspicious(const std::vector<double>& seconds_per_byte);

}  // namespace prima::profile

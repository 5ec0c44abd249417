// A prompt's step, cut into micro-batches that follow one another round the ring, so that all its
// devices compute at once.
//
// Value types; thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "compute/executor.h"
#include "compute/step.h"

namespace prima::ring {

// What a step of n tokens costs a device is about kStepCostTokens + n times what a token costs it:
// reading the weights once, starting threads, rounding up to what kernels compute at once. Measured
// with bench/step_bench; docs/protocol.md has the figures.
inline constexpr double kStepCostTokens = 16;

// Tokens of a micro-batch, of a step of n_tokens on devices that take turns: as many as make the
// whole fastest. n_tokens where cutting does not pay, on one device above all.
std::uint32_t micro_batch_tokens(std::uint32_t n_tokens, std::uint32_t n_devices,
                                 std::uint32_t rounds);

// Whether a device that streams can keep what it reads in one of so many rounds for all
// micro-batches that pass; else each would have it read again.
bool keeps_its_windows(const compute::ExecutorMemory& memory, std::uint32_t rounds);

// Steps of at most `n_tokens` that do together what `step` does, all with its id.
std::vector<compute::Step> cut(const compute::Step& step, std::uint32_t n_tokens);

}  // namespace prima::ring

// Which stages stay in memory and which are streamed, when not all fit.
//
// Layers are used in a cycle, so the best policy is a fixed resident set, the rest passing through
// slots. Streamed stages are spread evenly over the cycle, so that the disk reads all the time.
// Every byte of slots is a byte less of residency, so slots are kept as small as full disk speed
// allows; that is a matter of the largest streamed stage, so where the choice is free, large stages
// are the resident ones.
//
// Pure functions; thread-safe.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/units.h"

namespace prima::weights {

struct StreamSchedule {
  std::vector<bool> streamed;  // by stage
  Bytes resident_bytes = 0;
  Bytes streamed_bytes = 0;  // per cycle
  Bytes slot_bytes = 0;      // of slot memory; 0 if nothing is streamed

  Bytes memory_bytes() const { return resident_bytes + slot_bytes; }
};

// Slot memory with which the disk hardly waits for computing, if stages are at most this large.
Bytes comfortable_slot_bytes(Bytes largest_stage, Bytes budget);

// Slots of the program's own are memory that the system cannot take back, unlike resident weights
// and weights streamed in place: with what else the program holds of that kind (measured: 40 to 60
// MiB) they stay below 96 MiB on a small device and below 6 % of the memory of a device of 4 GiB or
// more, whatever more of them might gain. `budget` is what the KV cache, buffers and the program
// left for weights.
Bytes most_own_slot_bytes(Bytes budget);

// The least budget that schedule_streaming accepts for these stages.
Bytes smallest_stream_budget(std::span<const Bytes> stage_bytes);

// `stage_bytes`: in order of use over the whole cycle, all windows; `budget`: for resident stages
// and slots together; `slot_bytes`: slot memory chosen by a plan, which knows about rounds; without
// it what suits one device; `streamed_now`: the choice in force, from which as few stages as
// possible are changed, all in one direction. Fails with resource_exhausted, naming the budget that
// would be enough.
Result<StreamSchedule> schedule_streaming(std::span<const Bytes> stage_bytes, Bytes budget,
                                          std::optional<Bytes> slot_bytes = {},
                                          const std::vector<bool>* streamed_now = nullptr);

// What decides how much memory is worth more as slots than as residency.
struct StreamConditions {
  double disk_bytes_per_second = 0;
  double compute_bytes_per_second = 0;  // of weights, once they are in memory
  // The last stage of each window; after it other devices compute.
  std::vector<std::size_t> window_ends{};
  double share = 1;  // this device's of the ring's work
  // Slots need not be memory of the program's own: what fits the budget.
  bool can_be_in_place = false;
};

// As schedule_streaming(), with the slot memory that makes a cycle shortest. In a ring, what other
// devices compute in between is estimated: they are as fast as this one and stall as much.
Result<StreamSchedule> fastest_schedule(std::span<const Bytes> stage_bytes, Bytes budget,
                                        const StreamConditions& conditions);

// One stage's part in the steady state.
struct StageTiming {
  Bytes bytes = 0;
  bool streamed = false;
  double compute_seconds = 0;
  double gap_seconds = 0;  // after it, while other devices compute
};

// Seconds per cycle in the steady state: the disk reads streamed stages in order of use as far
// ahead as the slot memory allows, a stage is computed when it is there, its slot is free when it
// is done.
double steady_state_seconds(std::span<const StageTiming> cycle, Bytes slot_bytes,
                            double disk_bytes_per_second);

}  // namespace prima::weights

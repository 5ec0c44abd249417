// How much memory Prima may take on this device, and for what.
//
// Pure functions but for measure_budget(); thread-safe.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "base/units.h"
#include "weights/available_memory.h"

namespace prima::weights {

struct MemoryBudget {
  Bytes total = 0;    // all that Prima may take on this device
  Bytes program = 0;  // of it the program itself, all but weights, KV cache and compute buffers

  bool was_asked = false;  // somebody said how much; else it is what is available

  // For weights, KV cache and compute buffers.
  Bytes for_layers() const { return total > program ? total - program : 0; }
};

// What is left to other programs where nobody said how much Prima may take.
Bytes default_reserve(Bytes total_memory);

// `asked`: --memory; without it all that is available but a reserve. `program_now`: what the
// process takes before weights, cache and buffers.
MemoryBudget make_budget(std::optional<Bytes> asked, const AvailableMemory& available,
                         Bytes program_now);

// The same for this process and now. Fails with unsupported where nobody says how much there is.
Result<MemoryBudget> measure_budget(std::optional<Bytes> asked);

}  // namespace prima::weights

#include "weights/budget.h"

#include <algorithm>

#include "base/log.h"

namespace prima::weights {
namespace {

// What the program grows by once it computes: graphs, threads' stacks, buffers of answers and
// sockets. Measured: 9 MiB for an 8B model, 18 MiB for a 70B one in 20 windows.
constexpr Bytes kProgramGrowth = 24 * kMiB;

}  // namespace

Bytes default_reserve(Bytes total_memory) {
  return std::clamp(total_memory / 10, 64 * kMiB, 2 * kGiB);
}

MemoryBudget make_budget(std::optional<Bytes> asked, const AvailableMemory& available,
                         Bytes program_now) {
  MemoryBudget budget{.program = program_now + kProgramGrowth, .was_asked = asked.has_value()};
  if (asked) {
    budget.total = *asked;
    if (*asked > available.available + program_now) {
      log::warn("--memory {} is more than is available now ({}, limited by {})",
                format_bytes(*asked), format_bytes(available.available), available.limit);
    }
  } else {
    const Bytes reserve = default_reserve(available.total);
    budget.total = program_now + available.available - std::min(available.available, reserve);
  }
  return budget;
}

Result<MemoryBudget> measure_budget(std::optional<Bytes> asked) {
  auto available = available_memory();
  if (!available) {
    if (!asked) return tl::unexpected(std::move(available.error()));
    available = AvailableMemory{*asked, *asked, "memory"};
  }
  return make_budget(asked, *available, program_memory());
}

}  // namespace prima::weights

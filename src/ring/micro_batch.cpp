#include "ring/micro_batch.h"

#include <algorithm>
#include <cmath>

namespace prima::ring {
namespace {

constexpr std::uint32_t kFewestTokens = 16;
constexpr std::uint32_t kMultiple = 4;  // kernels compute four tokens at once

template <typename Element>
std::vector<Element> slice(const std::vector<Element>& all, std::uint32_t first,
                           std::uint32_t last) {
  return {all.begin() + first, all.begin() + last};
}

}  // namespace

// M micro-batches of m = P/M tokens pass N devices and k rounds: the last device is done after
// M (c + m) + (N-1)/k (c + m), with c = kStepCostTokens, in the time that a token takes on a
// device. That is least where m^2 = c P k / (N-1).
std::uint32_t micro_batch_tokens(std::uint32_t n_tokens, std::uint32_t n_devices,
                                 std::uint32_t rounds) {
  if (n_devices < 2 || n_tokens <= kFewestTokens) return n_tokens;
  const double best = std::sqrt(kStepCostTokens * n_tokens * rounds / (n_devices - 1));
  const auto most = std::max(kFewestTokens, static_cast<std::uint32_t>(std::lround(best)));
  // All of one size, so that one graph serves them; but for the last.
  const std::uint32_t n_parts = std::max(1u, (n_tokens + most / 2) / most);
  const std::uint32_t even = (n_tokens + n_parts - 1) / n_parts;
  return std::min(n_tokens, (even + kMultiple - 1) / kMultiple * kMultiple);
}

bool keeps_its_windows(const compute::ExecutorMemory& memory, std::uint32_t rounds) {
  return memory.streamed <= memory.slots * rounds;
}

std::vector<compute::Step> cut(const compute::Step& step, std::uint32_t n_tokens) {
  std::vector<compute::Step> parts;
  for (std::uint32_t first = 0; first < step.n_tokens(); first += n_tokens) {
    const std::uint32_t last = std::min(step.n_tokens(), first + n_tokens);
    compute::Step part{.id = step.id,
                       .kv_operations = {},
                       .sequences = slice(step.sequences, first, last),
                       .positions = slice(step.positions, first, last),
                       .cells = slice(step.cells, first, last),
                       .n_kv = step.n_kv,
                       .outputs = {}};
    if (first == 0) part.kv_operations = step.kv_operations;
    for (const std::uint32_t output : step.outputs) {
      if (output >= first && output < last) part.outputs.push_back(output - first);
    }
    parts.push_back(std::move(part));
  }
  return parts;
}

}  // namespace prima::ring

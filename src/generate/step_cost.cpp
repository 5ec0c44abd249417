#include "generate/step_cost.h"

#include <algorithm>
#include <cassert>
#include <iterator>

namespace prima::generate {

namespace {

// The weight of a new measurement once there are several: other programs disturb single steps, and
// contexts grow.
constexpr double kNewest = 0.2;

}  // namespace

void StepCost::observe(std::uint32_t n_tokens, Duration duration) {
  assert(n_tokens > 0);
  Measured& measured = by_size_[n_tokens];
  ++measured.times;
  // The first of a size also builds its graph; the second replaces it.
  const double weight = measured.times <= 2 ? 1.0 : std::max(kNewest, 1.0 / (measured.times - 1));
  measured.seconds += weight * (seconds(duration) - measured.seconds);
}

std::optional<Duration> StepCost::estimate(std::uint32_t n_tokens) const {
  if (by_size_.empty()) return std::nullopt;
  const auto duration = [](double value) {
    return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(value));
  };
  auto above = by_size_.lower_bound(n_tokens);
  if (above != by_size_.end() && above->first == n_tokens) return duration(above->second.seconds);
  if (above == by_size_.begin()) return duration(above->second.seconds);
  const bool beyond = above == by_size_.end();
  if (beyond) {
    above = std::prev(above);
    if (above == by_size_.begin()) return duration(above->second.seconds);
  }
  const auto below = std::prev(above);
  const double slope = (above->second.seconds - below->second.seconds) /
                       static_cast<double>(above->first - below->first);
  if (beyond) {
    const double more = std::max(0.0, slope) * static_cast<double>(n_tokens - above->first);
    return duration(above->second.seconds + more);
  }
  return duration(below->second.seconds + slope * static_cast<double>(n_tokens - below->first));
}

std::uint32_t StepCost::largest() const { return by_size_.empty() ? 0 : by_size_.rbegin()->first; }

}  // namespace prima::generate

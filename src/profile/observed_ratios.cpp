#include "profile/observed_ratios.h"

#include <algorithm>
#include <cmath>

namespace prima::profile {
namespace {

constexpr std::size_t kMostKept = 1024;
constexpr double kWorthCorrecting = 1.1;
constexpr double kMostCorrection = 8;

}  // namespace

void ObservedRatios::add(double ratio) {
  if (values_.size() < kMostKept) {
    values_.push_back(ratio);
  } else {
    values_[next_++ % kMostKept] = ratio;
  }
}

std::optional<double> ObservedRatios::median(std::size_t enough) const {
  if (values_.size() < enough) return std::nullopt;
  std::vector<double> values = values_;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::optional<double> correction_by(std::optional<double> ratio) {
  if (!ratio) return std::nullopt;
  const double bounded = std::clamp(*ratio, 1 / kMostCorrection, kMostCorrection);
  if (std::abs(std::log(bounded)) < std::log(kWorthCorrecting)) return std::nullopt;
  return std::sqrt(bounded);
}

}  // namespace prima::profile

#include "profile/observed_compute.h"

#include <algorithm>
#include <cmath>

namespace prima::profile {
namespace {

// Tokens of a step: as when decoding, bound by memory; as in a prompt, bound by arithmetic.
constexpr std::uint32_t kMostDecoding = 4;
constexpr std::uint32_t kLeastPrompt = 32;

// Of steps: fewer say little about a device.
constexpr std::size_t kEnoughDecoding = 12;
constexpr std::size_t kEnoughPrompts = 3;
constexpr std::size_t kMostKept = 1024;

constexpr double kWorthCorrecting = 1.1;
// Beyond that something else is wrong.
constexpr double kMostCorrection = 8;

void scale(TokenTimes& times, std::optional<double> decoding, std::optional<double> prompt) {
  for (std::size_t i = 0; i < kTimedTokens.size(); ++i) {
    if (decoding && kTimedTokens[i] <= kMostDecoding) times.seconds[i] *= *decoding;
    if (prompt && kTimedTokens[i] >= kLeastPrompt) times.seconds[i] *= *prompt;
    if (i > 0) times.seconds[i] = std::max(times.seconds[i], times.seconds[i - 1]);
  }
}

}  // namespace

ObservedCompute::ObservedCompute(DeviceProfile profile, const std::vector<LayerClass>& classes)
    : profile_(std::move(profile)) {
  for (std::uint32_t index = 0; index < classes.size(); ++index) {
    for (const std::uint32_t layer : classes[index]) {
      if (layer >= class_of_layer_.size()) class_of_layer_.resize(layer + 1);
      class_of_layer_[layer] = index;
    }
  }
}

void ObservedCompute::add(const compute::ComputedLayers& computed) {
  const bool is_prompt = computed.n_tokens >= kLeastPrompt;
  if (computed.n_tokens == 0 || (computed.n_tokens > kMostDecoding && !is_prompt)) return;
  const auto& times = computed.in_budget && !profile_.cpu_budgeted_layers.empty()
                          ? profile_.cpu_budgeted_layers
                          : profile_.cpu_layers;
  double expected = 0;
  for (std::uint32_t layer = computed.layers.first; layer < computed.layers.last; ++layer) {
    if (layer >= class_of_layer_.size() || class_of_layer_[layer] >= times.size()) return;
    expected += layer_seconds(times[class_of_layer_[layer]], computed.n_tokens, computed.context);
  }
  if (expected <= 0) return;
  Ratios& ratios = ratios_[computed.in_budget ? 1 : 0][is_prompt ? prompt : decoding];
  const double ratio = seconds(computed.computing) / expected;
  if (ratios.values.size() < kMostKept) {
    ratios.values.push_back(ratio);
  } else {
    ratios.values[ratios.next++ % kMostKept] = ratio;
  }
}

std::optional<double> ObservedCompute::correction(const Ratios& ratios, std::size_t enough) const {
  if (ratios.values.size() < enough) return std::nullopt;
  std::vector<double> values = ratios.values;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  const double ratio = std::clamp(*middle, 1 / kMostCorrection, kMostCorrection);
  if (std::abs(std::log(ratio)) < std::log(kWorthCorrecting)) return std::nullopt;
  return std::sqrt(ratio);
}

std::optional<DeviceProfile> ObservedCompute::corrected() const {
  DeviceProfile corrected = profile_;
  bool changed = false;
  for (const bool in_budget : {false, true}) {
    const auto& ratios = ratios_[in_budget ? 1 : 0];
    const auto decode = correction(ratios[decoding], kEnoughDecoding);
    const auto prefill = correction(ratios[prompt], kEnoughPrompts);
    if (!decode && !prefill) continue;
    changed = true;
    for (LayerTimes& times : in_budget ? corrected.cpu_budgeted_layers : corrected.cpu_layers) {
      scale(times.short_context_seconds, decode, prefill);
      scale(times.long_context_seconds, decode, prefill);
    }
    scale(in_budget ? corrected.cpu_budgeted_output_seconds : corrected.cpu_output_seconds, decode,
          prefill);
  }
  if (!changed) return std::nullopt;
  return corrected;
}

}  // namespace prima::profile

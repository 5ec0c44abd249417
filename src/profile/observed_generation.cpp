#include "profile/observed_generation.h"

#include <algorithm>
#include <utility>

namespace prima::profile {
namespace {

// Tokens of a step: as when decoding, bound by memory; as in a prompt, bound by arithmetic.
constexpr std::uint32_t kMostDecoding = 4;
constexpr std::uint32_t kLeastPrompt = 32;

// Of steps: fewer say little about a device.
constexpr std::size_t kEnoughDecoding = 12;
constexpr std::size_t kEnoughPrompts = 3;

void scale(TokenTimes& times, std::optional<double> decoding, std::optional<double> prompt) {
  for (std::size_t i = 0; i < kTimedTokens.size(); ++i) {
    if (decoding && kTimedTokens[i] <= kMostDecoding) times.seconds[i] *= *decoding;
    if (prompt && kTimedTokens[i] >= kLeastPrompt) times.seconds[i] *= *prompt;
    if (i > 0) times.seconds[i] = std::max(times.seconds[i], times.seconds[i - 1]);
  }
}

}  // namespace

ObservedGeneration::ObservedGeneration(DeviceProfile profile,
                                       const std::vector<LayerClass>& classes)
    : profile_(std::move(profile)), disk_(profile_.disk_read_bytes_per_second) {
  for (std::uint32_t index = 0; index < classes.size(); ++index) {
    for (const std::uint32_t layer : classes[index]) {
      if (layer >= class_of_layer_.size()) class_of_layer_.resize(layer + 1);
      class_of_layer_[layer] = index;
    }
  }
}

void ObservedGeneration::add(const compute::ComputedLayers& computed) {
  disk_.add(computed.ended, computed.reads);
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
  ratios_[computed.in_budget ? 1 : 0][is_prompt ? prompt : decoding].add(
      seconds(computed.computing) / expected);
}

std::optional<DeviceProfile> ObservedGeneration::corrected() const {
  DeviceProfile corrected = profile_;
  bool changed = false;
  for (const bool in_budget : {false, true}) {
    const auto& ratios = ratios_[in_budget ? 1 : 0];
    const auto decode = correction_by(ratios[decoding].median(kEnoughDecoding));
    const auto prefill = correction_by(ratios[prompt].median(kEnoughPrompts));
    if (!decode && !prefill) continue;
    changed = true;
    for (LayerTimes& times : in_budget ? corrected.cpu_budgeted_layers : corrected.cpu_layers) {
      scale(times.short_context_seconds, decode, prefill);
      scale(times.long_context_seconds, decode, prefill);
    }
    scale(in_budget ? corrected.cpu_budgeted_output_seconds : corrected.cpu_output_seconds, decode,
          prefill);
  }
  if (const auto disk = disk_.correction()) {
    changed = true;
    corrected.disk_read_bytes_per_second *= *disk;
  }
  if (!changed) return std::nullopt;
  return corrected;
}

}  // namespace prima::profile

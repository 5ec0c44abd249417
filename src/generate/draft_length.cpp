#include "generate/draft_length.h"

#include <algorithm>
#include <array>
#include <cassert>

namespace prima::generate {

namespace {

// Of an observation, after each later one: some dozen steps are remembered, since texts change
// between what is copied and what is new.
constexpr double kRemembered = 0.9;

// In steps. Where a token costs as much as a step, a try after each pause costs one: three in the
// first 256 tokens, and one in 512 later on.
constexpr std::uint32_t kFirstPause = 32;
constexpr std::uint32_t kLongestPause = 512;

// Gains below this are lost in what is not modelled.
constexpr double kLeastGain = 1.03;

// Numbers of drafted tokens that are considered: few, because each size of a step has a graph and
// measurements of its own.
constexpr std::array<std::uint32_t, 12> kLengths = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64};

}  // namespace

void DraftRecord::observe(std::uint32_t drafted, std::uint32_t accepted) {
  assert(accepted <= drafted);
  if (drafted == 0) return;
  accepted_ = kRemembered * accepted_ + accepted;
  // The first wrong one was tried, those after it were not.
  tried_ = kRemembered * tried_ + std::min(accepted + 1, drafted);
}

void DraftRecord::pause() {
  last_pause_ = std::clamp(2 * last_pause_, kFirstPause, kLongestPause);
  pause_ = last_pause_;
}

bool DraftRecord::paused() {
  if (pause_ == 0) return false;
  --pause_;
  return true;
}

void DraftRecord::pays() { last_pause_ = 0; }

void choose_draft_lengths(std::uint32_t n_tokens, std::span<const double> acceptances,
                          const DraftCosts& costs, std::span<std::uint32_t> lengths) {
  assert(acceptances.size() == lengths.size());
  std::fill(lengths.begin(), lengths.end(), 0u);
  const auto plain = costs.step.estimate(n_tokens);
  if (!plain || costs.most == 0) return;

  // Sizes never tried are approached step by step, at most doubling: a step of 17 tokens could cost
  // as much as ten.
  const std::uint32_t largest = std::max(2 * costs.step.largest(), n_tokens + 1);
  std::vector<double> marginal(acceptances.begin(), acceptances.end());  // a^(k+1)
  double expected = n_tokens;                                            // tokens won by the step
  double best_rate = expected / seconds(*plain) * kLeastGain;
  std::vector<std::uint32_t> chosen(lengths.size(), 0);
  std::uint32_t drafted = 0;
  std::uint32_t to_draft = 0;  // of these: not ready
  while (drafted < costs.room && n_tokens + drafted < largest) {
    const auto next = std::max_element(marginal.begin(), marginal.end()) - marginal.begin();
    if (marginal[next] <= 0.0) break;
    expected += marginal[next];
    ++chosen[next];
    ++drafted;
    const bool is_ready = !costs.ready.empty() && chosen[next] <= costs.ready[next];
    to_draft += is_ready ? 0 : 1;
    marginal[next] = chosen[next] < costs.most ? marginal[next] * acceptances[next] : 0.0;
    const double time = seconds(*costs.step.estimate(n_tokens + drafted)) +
                        to_draft * seconds(costs.per_drafted_token);
    const double rate = expected / time;
    const bool considered =
        drafted > kLengths.back() || std::binary_search(kLengths.begin(), kLengths.end(), drafted);
    if (considered && rate > best_rate) {
      best_rate = rate;
      std::copy(chosen.begin(), chosen.end(), lengths.begin());
    }
  }
}

}  // namespace prima::generate

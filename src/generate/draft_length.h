// How many tokens to draft, so that tokens per second are the most: from how often an answer's
// drafts were right, and from what steps of more tokens cost here.
//
// An answer's k drafted tokens give E(k) = 1 + a + ... + a^k tokens on average, if each is right
// with probability a; the step costs T(n + k) instead of T(n), and drafting k tokens its own time
// (Leviathan et al., arXiv 2211.17192, section 3), unless they were guessed ahead. Where no k > 0
// pays, drafting pauses, and is tried again after ever longer pauses, so that trying costs next to
// nothing.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/clock.h"
#include "generate/step_cost.h"

namespace prima::generate {

// Of one answer.
class DraftRecord {
 public:
  double acceptance() const { return accepted_ / tried_; }
  void observe(std::uint32_t drafted, std::uint32_t accepted);

  // Drafting does not pay now. While paused(), which is asked once per step, nothing is drafted;
  // then it is tried again.
  void pause();
  bool paused();
  bool is_tried_again() const { return last_pause_ > 0; }
  void pays();

 private:
  // As if two of three had been right: enough to begin with, little enough to be outweighed soon.
  double accepted_ = 2.0;
  double tried_ = 3.0;
  std::uint32_t pause_ = 0;  // steps left
  std::uint32_t last_pause_ = 0;
};

struct DraftCosts {
  const StepCost& step;                    // steps whose every token's logits are wanted
  Duration per_drafted_token{};            // of the drafter
  std::uint32_t most = 0;                  // per answer
  std::uint32_t room = 0;                  // tokens and cells left for drafts in this step
  std::span<const std::uint32_t> ready{};  // drafted already, by answer: these take no more time
};

// `n_tokens`: of the step without drafts. Sets how many to draft for each answer; the records say
// how often they were right. All zero where drafting does not pay.
void choose_draft_lengths(std::uint32_t n_tokens, std::span<const double> acceptances,
                          const DraftCosts& costs, std::span<std::uint32_t> lengths);

}  // namespace prima::generate

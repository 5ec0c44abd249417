// How long a step of n tokens takes on this ring, learnt from the steps that were made: what
// decides how many tokens are worth drafting, and how much of a prompt may ride along with those
// who wait for their next token.
//
// Value type; thread-compatible.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

#include "base/clock.h"

namespace prima::generate {

class StepCost {
 public:
  // A step of so many tokens took so long. REQUIRES: n_tokens > 0.
  void observe(std::uint32_t n_tokens, Duration duration);

  // Between measured sizes on a straight line; beyond the largest, on the line of the last two, and
  // from a single one as if tokens cost nothing: trying shows it. nullopt before any was measured.
  std::optional<Duration> estimate(std::uint32_t n_tokens) const;

  // The largest step measured; 0 before any.
  std::uint32_t largest() const;

 private:
  struct Measured {
    double seconds = 0.0;
    std::uint32_t times = 0;
  };

  std::map<std::uint32_t, Measured> by_size_;
};

}  // namespace prima::generate

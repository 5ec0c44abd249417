// A text's embedding, from the hidden states of its tokens as they are computed, piece by piece.
//
// Value type; thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "model/hyperparameters.h"

namespace prima::generate {

class EmbeddingPool {
 public:
  explicit EmbeddingPool(model::Pooling pooling) : pooling_(pooling) {}

  // Of a piece of so many tokens, the states of how many of its last ones are needed; at least one.
  std::uint32_t n_needed(std::uint32_t n_tokens) const;

  // The states (n_embd, n_needed) of the next piece.
  void add(std::span<const float> states, std::uint32_t n_states);

  // Of length 1 (but for a text of zeros). REQUIRES: something was added.
  std::vector<float> result() const;

  // Begins again: the text is computed anew.
  void clear();

 private:
  model::Pooling pooling_;
  std::vector<double> pooled_;  // (n_embd)
};

}  // namespace prima::generate

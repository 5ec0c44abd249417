#include "generate/embedding_pool.h"

#include <cmath>

namespace prima::generate {

using model::Pooling;

std::uint32_t EmbeddingPool::n_needed(std::uint32_t n_tokens) const {
  const bool all = pooling_ == Pooling::mean || (pooling_ == Pooling::first && pooled_.empty());
  return all ? n_tokens : 1;
}

void EmbeddingPool::add(std::span<const float> states, std::uint32_t n_states) {
  const std::size_t n_embd = states.size() / n_states;
  const bool is_first_piece = pooled_.empty();
  if (pooling_ == Pooling::mean) {
    pooled_.resize(n_embd);
    for (std::size_t i = 0; i < states.size(); ++i) pooled_[i % n_embd] += states[i];
  } else if (pooling_ == Pooling::first) {
    if (is_first_piece) pooled_.assign(states.begin(), states.begin() + n_embd);
  } else {
    pooled_.assign(states.end() - static_cast<std::ptrdiff_t>(n_embd), states.end());
  }
}

std::vector<float> EmbeddingPool::result() const {
  double square = 0.0;
  for (const double value : pooled_) square += value * value;
  const double scale = square > 0.0 ? 1.0 / std::sqrt(square) : 0.0;
  std::vector<float> result;
  result.reserve(pooled_.size());
  for (const double value : pooled_) result.push_back(static_cast<float>(value * scale));
  return result;
}

void EmbeddingPool::clear() { pooled_.clear(); }

}  // namespace prima::generate

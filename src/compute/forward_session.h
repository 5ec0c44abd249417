// Tokens in, logits out, on one Executor: what tests and benchmarks of the forward pass drive.
// One sequence, one step at a time.
//
// Thread-compatible.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "compute/executor.h"
#include "compute/kv_cells.h"

namespace prima::compute {

class ForwardSession {
 public:
  // The executor holds all layers and is the head; it must outlive the session.
  ForwardSession(Executor& executor, std::uint32_t n_layer, std::uint32_t n_ctx,
                 std::uint32_t max_tokens)
      : executor_(executor), n_layer_(n_layer), max_tokens_(max_tokens), cells_(n_ctx) {}

  // Adds tokens to the sequence, in steps of at most max_tokens; returns the logits of the last.
  Result<std::vector<float>> decode(std::span<const std::int32_t> tokens) {
    std::vector<float> logits;
    while (!tokens.empty()) {
      const std::size_t n = std::min<std::size_t>(tokens.size(), max_tokens_);
      const bool is_last = n == tokens.size();
      Step step;
      step.id = next_id_++;
      for (std::size_t i = 0; i < n; ++i) {
        step.sequences.push_back(0);
        step.positions.push_back(position_++);
      }
      if (is_last) step.outputs.push_back(static_cast<std::uint32_t>(n - 1));
      PRIMA_RETURN_IF_ERROR(cells_.place(step));
      PRIMA_RETURN_IF_ERROR(cells_.apply(step));
      PRIMA_RETURN_IF_ERROR(executor_.embed(tokens.first(n), hidden_));
      PRIMA_RETURN_IF_ERROR(executor_.begin(step));
      PRIMA_RETURN_IF_ERROR(executor_.run({0, n_layer_}, step, hidden_));
      if (is_last) PRIMA_RETURN_IF_ERROR(executor_.logits(hidden_, logits));
      tokens = tokens.subspan(n);
    }
    return logits;
  }

  void clear() {
    executor_.clear();
    cells_.clear();
    position_ = 0;
  }

 private:
  Executor& executor_;
  std::uint32_t n_layer_;
  std::uint32_t max_tokens_;
  KvCells cells_;
  std::vector<float> hidden_;
  std::int32_t position_ = 0;
  std::uint64_t next_id_ = 0;
};

}  // namespace prima::compute

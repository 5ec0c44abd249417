// A sequence of tokens whose keys and values the ring's devices hold: one conversation, one user's
// request, one branch of a draft.
//
// Invariant: tokens() are in the KV cache or in a step on its way there. Only an Engine changes
// them.
//
// Value type; thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "text/tokenizer.h"

namespace prima::generate {

class Sequence {
 public:
  // `id`: 0 to compute::kMaxSequences-1; no two sequences of an Engine have the same.
  explicit Sequence(std::int32_t id) : id_(id) {}

  std::int32_t id() const { return id_; }
  const std::vector<text::Token>& tokens() const { return tokens_; }
  std::size_t size() const { return tokens_.size(); }

  // As new, without telling the devices: for after Engine::reset().
  void forget();

 private:
  friend class Engine;

  std::int32_t id_;
  std::vector<text::Token> tokens_;
};

// How many tokens both begin with.
std::size_t common_prefix(std::span<const text::Token> a, std::span<const text::Token> b);

}  // namespace prima::generate

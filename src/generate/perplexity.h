// Perplexity of a model on a text, as llama.cpp's llama-perplexity measures it: chunks of n_ctx
// tokens, each computed from an empty context and, where the vocabulary wants a BOS, with one in
// the place of its first token; the tokens after the middle are scored given those before.
//
// Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "base/result.h"
#include "generate/engine.h"
#include "text/tokenizer.h"

namespace prima::generate {

struct Perplexity {
  double sum_nll = 0.0;  // of -ln p(token | those before)
  double sum_squared_nll = 0.0;
  std::size_t n_scored = 0;
  std::size_t n_chunks = 0;

  // REQUIRES: n_scored > 0 (value), > 1 (standard_error).
  double value() const;
  double standard_error() const;
};

// Fails with invalid_argument where a text of so many tokens gives no figure.
Status check_perplexity(std::size_t n_tokens, std::uint32_t n_ctx);

// `tokens`: of the whole text, tokenized with add_special; what does not fill a chunk at its end is
// left out. `on_chunk` hears the figure so far. REQUIRES: n_ctx <= engine.n_ctx(), no step in
// flight, no other sequence. Fails with invalid_argument, cancelled, or what the ring reports.
Result<Perplexity> measure_perplexity(Engine& engine, const text::Tokenizer& tokenizer,
                                      std::span<const text::Token> tokens, std::uint32_t n_ctx,
                                      const std::function<void(const Perplexity&)>& on_chunk,
                                      const std::function<bool()>& cancelled);

}  // namespace prima::generate

// The choice of the next token from its logits: penalties, top-k, top-p, min-p, temperature,
// grammar (llama.cpp's samplers).
//
// Deterministic: the same options, the same accepted tokens and the same logits give the same
// token. A clone goes on independently from the same state; drafts are verified on one.
//
// Thread-compatible. The tokenizer must outlive it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/tokenizer.h"

struct llama_sampler;
struct llama_token_data;

namespace prima::text {

struct LogitBias {
  Token token = 0;
  float bias = 0.0f;  // added to the logit; -infinity forbids the token
};

// What an answer must look like.
struct Grammar {
  std::string gbnf = {};  // with the start rule "root"; empty: none
  // A lazy grammar waits until the answer has one of these, and constrains from there on.
  bool lazy = false;
  std::vector<std::string> trigger_patterns = {};  // regular expressions
  std::vector<Token> trigger_tokens = {};
  std::vector<Token> prefix = {};  // of what the grammar describes, the prompt ends with this
};

// The defaults are llama.cpp's, so that people find the behaviour they know.
struct SamplerOptions {
  float temperature = 0.8f;  // 0: always the likeliest token
  std::int32_t top_k = 40;   // 0: all
  float top_p = 0.95f;       // 1: all
  float min_p = 0.05f;       // 0: all
  float repeat_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  std::int32_t penalized_tokens = 64;  // the last tokens that the penalties look at
  std::uint32_t seed = 0;
  std::vector<LogitBias> logit_bias = {};
  Grammar grammar = {};
};

// GBNF for a JSON schema. Fails with invalid_argument.
Result<std::string> grammar_of_json_schema(const std::string& schema);

class Sampler {
 public:
  // Fails with invalid_argument on values out of range and on a grammar that cannot be parsed.
  static Result<Sampler> create(const Tokenizer& tokenizer, const SamplerOptions& options);

  Sampler(Sampler&&) noexcept;
  Sampler& operator=(Sampler&&) noexcept;
  ~Sampler();

  Sampler clone() const;

  // `logits`: (n_vocab). Does not accept the token: drafts are sampled and then perhaps dropped.
  // Fails with invalid_argument if the grammar allows no token, with internal if the logits are no
  // numbers.
  Result<Token> sample(std::span<const float> logits);

  // A token became part of the answer. Fails with invalid_argument if the grammar forbids it.
  Status accept(Token token);

  // Tokens of the prompt: penalties see them, the grammar does not.
  void accept_prompt(std::span<const Token> tokens);

 private:
  struct FreeSampler {
    void operator()(llama_sampler* sampler) const;
  };
  using SamplerPointer = std::unique_ptr<llama_sampler, FreeSampler>;

  Sampler();

  Result<Token> likeliest(std::span<const float> logits) const;
  void set_candidates(std::span<const float> logits);
  Result<Token> choose_candidate();
  bool grammar_allows(Token token) const;

  static Result<SamplerPointer> make_grammar(const Tokenizer& tokenizer, const Grammar& grammar);

  SamplerPointer chain_;    // null: the likeliest token
  SamplerPointer grammar_;  // null: none
  std::size_t n_vocab_ = 0;
  std::size_t penalized_tokens_ = 0;
  std::vector<llama_token_data> candidates_;  // kept for its memory
};

}  // namespace prima::text

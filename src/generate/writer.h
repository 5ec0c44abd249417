// One answer while it is written: what is known of it, which token comes next, why it ends.
//
//     logits --take()--> sampled tokens --> text --> on_text
//
// Knows nothing of the ring; batcher.h moves it through.
//
// Thread-compatible.
#pragma once

#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "generate/answer.h"
#include "text/sampler.h"
#include "text/text_stream.h"
#include "text/tokenizer.h"

namespace prima::generate {

class Writer {
 public:
  // The tokenizer and the clock must outlive it.
  Writer(const text::Tokenizer& tokenizer, text::Sampler sampler, Request request,
         const Clock& clock);

  const Request& request() const { return request_; }

  // The prompt, and what was sampled.
  const std::vector<text::Token>& tokens() const { return tokens_; }
  bool has_begun() const { return answer_.statistics.n_generated > 0; }

  // Samples from the logits (n_vocab, 1 + drafted) of the last known token and of the tokens
  // drafted after it, as far as these are what is sampled; how many are. finish() says whether the
  // answer ends with that. Fails with what the sampler reports.
  Result<std::uint32_t> take(std::span<const float> logits, std::span<const text::Token> drafted);

  // Why the answer ends, if it does.
  std::optional<FinishReason> finish() const { return finish_; }

  // Shows what was held back, and gives the answer away.
  Answer end(FinishReason reason);

  // The answer to a request for an embedding.
  Answer end(std::vector<float> embedding);

  Statistics& statistics() { return answer_.statistics; }

 private:
  std::optional<FinishReason> add(text::Token token, std::span<const float> logits);
  void show(const std::string& text, bool at_end);

  const text::Tokenizer& tokenizer_;
  const Clock& clock_;
  const Instant started_;
  text::Sampler sampler_;
  Request request_;
  std::vector<text::Token> tokens_;
  text::TextStream text_;
  Answer answer_;
  std::size_t n_shown_ = 0;  // tokens that on_text has heard of
  std::optional<FinishReason> finish_;
};

// What a model with these logits (n_vocab) thinks of a token, and of the `n_likeliest` likeliest.
AnswerToken with_probabilities(text::Token token, std::span<const float> logits,
                               std::uint32_t n_likeliest);

}  // namespace prima::generate

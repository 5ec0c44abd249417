// What is asked of the model, and what it answered.
//
// Value types; thread-compatible.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "model/hyperparameters.h"
#include "text/tokenizer.h"

namespace prima::generate {

// A token of an answer. Probabilities are the model's, before temperature and penalties.
struct AnswerToken {
  struct Alternative {
    text::Token token = 0;
    float log_probability = 0.0f;
  };

  text::Token token = 0;
  float log_probability = 0.0f;          // zero unless Request::top_probabilities is set
  std::vector<Alternative> likeliest{};  // the first is the model's favourite
};

struct Request {
  std::vector<text::Token> prompt;      // the whole of it: what the ring has already is reused
  std::uint32_t max_tokens = 0;         // 0: until the model ends or the context is full
  std::vector<std::string> stops = {};  // end the answer; not empty
  bool ignore_end = false;              // go on where the model would end
  // Log-probabilities are wanted, of so many alternatives too.
  std::optional<std::uint32_t> top_probabilities = {};
  // Nothing is to be written: the prompt's embedding is wanted.
  std::optional<model::Pooling> embedding = {};
  std::set<text::Token> shown_specials = {};  // control tokens whose text belongs to the answer

  // Text as it becomes ready, in complete UTF-8 characters, and the tokens sampled since the last
  // call; text may be held back for longer than the tokens it comes from.
  std::function<void(std::string_view, std::span<const AnswerToken>)> on_text = {};
};

enum class FinishReason {
  end,  // the model ended its answer
  stop_string,
  max_tokens,
  context_full,
  cancelled,
};

const char* to_string(FinishReason reason);

struct Statistics {
  std::uint32_t n_prompt = 0;     // tokens of the prompt
  std::uint32_t n_reused = 0;     // of them, those whose keys and values were there already
  std::uint32_t n_generated = 0;  // tokens sampled, with one that ends the answer
  std::uint32_t n_drafted = 0;    // tokens verified that a drafter guessed
  std::uint32_t n_accepted = 0;   // of them, those that were right
  Duration queued{};              // before anything was computed; part of the next
  Duration time_to_first_token{};
  Duration decoding{};  // from the first token to the last

  // Zero where nothing was measured.
  Duration time_per_output_token() const;
  double prefill_tokens_per_second() const;
  double decode_tokens_per_second() const;
};

struct Answer {
  std::vector<AnswerToken> tokens;  // without the one that ends the answer
  std::string text;
  FinishReason finish = FinishReason::end;
  std::vector<float> embedding;  // (n_embd), of length 1, where it was asked for
  Statistics statistics;
};

}  // namespace prima::generate

// Writes one answer: the prompt through the ring (prefill), then token after token (decode).
//
//     prompt ---> drop what the sequence has beyond the common prefix
//            ---> steps of at most max_tokens, as many in flight as the ring takes
//            ---> sample ---> text ---> a step of one token ---> sample ---> ...
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "generate/engine.h"
#include "generate/sequence.h"
#include "text/sampler.h"
#include "text/tokenizer.h"

namespace prima::generate {

struct Request {
  std::vector<text::Token> prompt;      // the whole of it: what the sequence has already is reused
  std::uint32_t max_tokens = 0;         // 0: until the model ends or the context is full
  std::vector<std::string> stops = {};  // end the answer; not empty
  bool ignore_end = false;              // go on where the model would end

  // Text as it becomes ready; complete UTF-8 characters.
  std::function<void(std::string_view)> on_text = {};
  // Asked at least every 50 ms while waiting for the ring; true ends the answer.
  std::function<bool()> cancelled = {};
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
  Duration time_to_first_token{};
  Duration decoding{};  // from the first token to the last

  // Zero where nothing was measured.
  Duration time_per_output_token() const;
  double prefill_tokens_per_second() const;
  double decode_tokens_per_second() const;
};

struct Answer {
  std::vector<text::Token> tokens;  // without the one that ends the answer
  std::string text;
  FinishReason finish = FinishReason::end;
  Statistics statistics;
};

// Goes on from what `sequence` holds. Fails with invalid_argument (empty prompt, one longer than
// the context, a grammar that allows no token), or with what the ring reports: in that case alone
// the sequence, and every other one of the engine, is forgotten.
Result<Answer> generate(Engine& engine, const text::Tokenizer& tokenizer, Sequence& sequence,
                        text::Sampler& sampler, const Request& request, const Clock& clock);

}  // namespace prima::generate

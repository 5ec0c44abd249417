// Who guesses how answers go on, so that one step can verify several tokens: speculative decoding.
//
// A guess costs time but never changes what is written: each drafted token is compared with the one
// that the target's sampler takes from the target's own logits, and kept where they are the same
// (rejection sampling, for a draft that is certain of its token: it is accepted with the target's
// probability of it, and what replaces it otherwise follows the target's distribution of the rest).
// So the answer is the one that the same seed gives without drafts.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "text/tokenizer.h"

namespace prima::generate {

struct Draft {
  std::int32_t sequence = 0;               // whose; the same as long as an answer is written
  std::span<const text::Token> history{};  // prompt and answer, with the token computed next
  std::uint32_t most = 0;                  // wanted, at most
  std::vector<text::Token> tokens{};       // out: the guess, perhaps shorter or empty
};

class Drafter {
 public:
  virtual ~Drafter() = default;

  // Fills in the drafts' tokens.
  virtual Status draft(std::span<Draft> drafts) = 0;

  // One more token for each of these sequences, beyond all that was guessed of them before: kept,
  // for when histories go on that way. Fails with resource_exhausted where there is no room for it,
  // or nothing to go on from.
  virtual Status guess_further(std::span<const std::int32_t> /*sequences*/) {
    return fail(ErrorCode::resource_exhausted, "this drafter does not guess ahead");
  }

  // How many tokens of a guess are there already.
  virtual std::uint32_t n_ready(const Draft& /*draft*/) const { return 0; }

  // The longest guess worth asking for.
  virtual std::uint32_t most() const = 0;

  // What one more token of a guess takes, as far as is known.
  virtual Duration cost_of_a_token() const { return {}; }
};

}  // namespace prima::generate

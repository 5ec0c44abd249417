// Guesses by looking up: where the last few tokens stood before in the conversation, what followed
// them then follows again. Pays where answers repeat their prompt: edits, code, quotations.
//
// Thread-compatible.
#pragma once

#include "generate/drafter.h"

namespace prima::generate {

class NgramDrafter final : public Drafter {
 public:
  Status draft(std::span<Draft> drafts) override;
  std::uint32_t most() const override;
};

// What followed the last earlier place in `history` where its longest ending (of 5 to 2 tokens)
// stands; at most `most` tokens. Where that place runs into the end, the guess goes round.
std::vector<text::Token> look_up_ngram(std::span<const text::Token> history, std::uint32_t most);

}  // namespace prima::generate

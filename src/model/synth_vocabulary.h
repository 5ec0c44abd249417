// A made-up vocabulary of any size for synthetic models: SentencePiece's kind, with a token for
// every byte, so that any text can be written in it and read back.
#pragma once

#include <cstdint>

#include "model/gguf.h"

namespace prima::model {

// <unk>, <s>, </s>, the bytes, and the sign for a space, which bytes cannot stand for.
inline constexpr std::uint32_t kSmallestVocabulary = 260;

// REQUIRES: n_vocab >= kSmallestVocabulary.
void add_synthetic_vocabulary(std::uint32_t n_vocab, Metadata& metadata);

}  // namespace prima::model

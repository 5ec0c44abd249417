#include "model/synth_vocabulary.h"

#include <string>
#include <vector>

#include <spdlog/fmt/fmt.h>

namespace prima::model {
namespace {

// SentencePiece's sign for a space.
constexpr std::string_view kSpace = "\xe2\x96\x81";

// tokenizer.ggml.token_type.
constexpr std::int64_t kNormal = 1;
constexpr std::int64_t kUnknown = 2;
constexpr std::int64_t kControl = 3;
constexpr std::int64_t kByte = 6;

// Pieces in such an order that each is made of two before it, as merging needs: characters, then
// words of one, two, three ... syllables, each also with a space before it.
std::vector<std::string> make_pieces(std::size_t count) {
  constexpr std::string_view kConsonants = "bcdfghjklmnpqrstvwxyz";
  constexpr std::string_view kVowels = "aeiou";
  std::vector<std::string> pieces;
  const auto add = [&](std::string piece) {
    if (pieces.size() < count) pieces.push_back(std::move(piece));
  };
  add(std::string(kSpace));
  for (char c = '!'; c <= '~'; ++c) add(std::string(1, c));
  std::vector<std::string> syllables;
  for (const char consonant : kConsonants) {
    for (const char vowel : kVowels) syllables.push_back({consonant, vowel});
  }
  std::vector<std::string> words = syllables;
  while (pieces.size() < count) {
    for (const std::string& word : words) {
      add(word);
      add(std::string(kSpace) + word);
    }
    std::vector<std::string> longer;
    for (const std::string& word : words) {
      for (const std::string& syllable : syllables) {
        if (longer.size() + pieces.size() > count) break;
        longer.push_back(word + syllable);
      }
    }
    words = std::move(longer);
  }
  return pieces;
}

}  // namespace

void add_synthetic_vocabulary(std::uint32_t n_vocab, Metadata& metadata) {
  std::vector<std::string> tokens{"<unk>", "<s>", "</s>"};
  std::vector<double> scores(tokens.size(), 0.0);
  std::vector<std::int64_t> types{kUnknown, kControl, kControl};
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(fmt::format("<0x{:02X}>", byte));
    scores.push_back(0.0);
    types.push_back(kByte);
  }
  // Longer pieces are the likelier ones to merge into, as in trained vocabularies.
  std::vector<std::string> pieces = make_pieces(n_vocab - tokens.size());
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    scores.push_back(-static_cast<double>(pieces.size() - i));
    types.push_back(kNormal);
    tokens.push_back(std::move(pieces[i]));
  }
  const auto set_uint32 = [&](const char* key, std::uint64_t value) { metadata.set(key, value); };
  metadata.set("tokenizer.ggml.model", std::string("llama"));
  metadata.set("tokenizer.ggml.tokens", MetadataArray(std::move(tokens)));
  metadata.set("tokenizer.ggml.scores", MetadataArray(std::move(scores)));
  metadata.set("tokenizer.ggml.token_type", MetadataArray(std::move(types)));
  set_uint32("tokenizer.ggml.unknown_token_id", 0);
  set_uint32("tokenizer.ggml.bos_token_id", 1);
  set_uint32("tokenizer.ggml.eos_token_id", 2);
  metadata.set("tokenizer.ggml.add_bos_token", true);
  metadata.set("tokenizer.ggml.add_eos_token", false);
}

}  // namespace prima::model

// A model's vocabulary: text to tokens and back, by llama.cpp's library. No weights are loaded.
//
// Immutable once loaded, so safe to use from any thread. Movable; what was derived from a Tokenizer
// (ChatTemplate, Sampler) stays valid as long as the Tokenizer, or the one it was moved to, lives.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

struct llama_model;
struct llama_vocab;

namespace prima::text {

using Token = std::int32_t;

inline constexpr Token kNoToken = -1;

// How text that holds the spelling of a special token ("<|im_end|>") is read.
enum class SpecialTokens {
  as_text,  // letter by letter: for what users write
  parsed,   // as that token: for rendered chat templates
};

class Tokenizer {
 public:
  // `path`: the GGUF, or the first of a split. REQUIRES: model::ModelFile::open accepted it,
  // because llama.cpp aborts on some inconsistent vocabularies. Fails with corrupt, unsupported or
  // io.
  static Result<Tokenizer> load(const std::filesystem::path& path);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  std::int32_t n_vocab() const;

  // `add_special`: puts the tokens around the text that the model wants there (BOS, where its
  // metadata says so). Invalid UTF-8 is read as U+FFFD. Fails with invalid_argument beyond 1 GiB,
  // or a mebibyte without a space or other break.
  Result<std::vector<Token>> tokenize(std::string_view text, bool add_special,
                                      SpecialTokens special) const;

  // The bytes that a token stands for: perhaps only a part of a UTF-8 character, and nothing for
  // control tokens, unless `render_special`. TextStream makes text of them.
  // REQUIRES: 0 <= token < n_vocab().
  std::string piece(Token token, bool render_special = false) const;

  // All pieces, one after another, as valid UTF-8.
  std::string detokenize(std::span<const Token> tokens, bool render_special = false) const;

  // True for the tokens that end an answer (EOS, end of turn, ...).
  bool is_end_of_generation(Token token) const;

  bool adds_bos() const;
  Token bos() const;  // kNoToken if the vocabulary has none
  Token eos() const;

  // For the other classes of this folder; never null.
  const llama_model* model() const { return model_.get(); }
  const llama_vocab* vocab() const { return vocab_; }

 private:
  struct FreeModel {
    void operator()(llama_model* model) const;
  };

  Tokenizer() = default;

  // On this thread's stack, which a very long word overflows.
  Result<std::vector<Token>> tokenize_here(std::string_view text, bool add_special,
                                           SpecialTokens special) const;

  std::unique_ptr<llama_model, FreeModel> model_;
  const llama_vocab* vocab_ = nullptr;  // of model_
};

}  // namespace prima::text

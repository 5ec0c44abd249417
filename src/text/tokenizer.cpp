#include "text/tokenizer.h"

#include <algorithm>
#include <exception>

#include <llama.h>

#include "base/units.h"
#include "text/deep_stack.h"
#include "text/llama_log.h"
#include "text/utf8.h"

namespace prima::text {

namespace {

// llama_tokenize counts in 32 bits, and no context is near this.
constexpr Bytes kMaxTextBytes = kGiB;

// The longest run of characters of one kind that the splitting into words may have to take in one
// piece. Bytes of characters beyond ASCII count as letters.
std::size_t longest_run(std::string_view text) {
  const auto kind = [](unsigned char c) {
    if (c >= 0x80 || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return 0;
    if (c >= '0' && c <= '9') return 1;
    return c == ' ' || (c >= '\t' && c <= '\r') ? 2 : 3;
  };
  std::size_t longest = 0;
  std::size_t run = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    run = i > 0 && kind(text[i]) == kind(text[i - 1]) ? run + 1 : 1;
    longest = std::max(longest, run);
  }
  return longest;
}

// std::regex recurses for every character of a run: some 300 bytes of stack each, measured. Runs up
// to kPlainRun take less than the smallest usual stack, and beyond kLongestRun is no text.
constexpr std::size_t kPlainRun = 1024;
constexpr std::size_t kLongestRun = 1 << 20;
constexpr Bytes kStackPerCharacter = kKiB;
constexpr Bytes kPlainStack = 8 * kMiB;

}  // namespace

void Tokenizer::FreeModel::operator()(llama_model* model) const { llama_model_free(model); }

Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::load(const std::filesystem::path& path) {
  route_llama_log();
  llama_model_params params = llama_model_default_params();
  params.vocab_only = true;
  CapturedLlamaErrors errors;
  Tokenizer tokenizer;
  tokenizer.model_.reset(llama_model_load_from_file(path.c_str(), params));
  if (!tokenizer.model_) {
    return fail(ErrorCode::corrupt,
                path.string() + ": the vocabulary cannot be loaded" +
                    (errors.first().empty() ? "" : " (" + errors.first() + ")"),
                "Download the file again or choose another conversion of the model");
  }
  tokenizer.vocab_ = llama_model_get_vocab(tokenizer.model_.get());
  if (llama_vocab_type(tokenizer.vocab_) == LLAMA_VOCAB_TYPE_NONE) {
    return fail(ErrorCode::unsupported, path.string() + ": the model has no vocabulary",
                "Choose a conversion of the model that carries its tokenizer");
  }
  return tokenizer;
}

std::int32_t Tokenizer::n_vocab() const { return llama_vocab_n_tokens(vocab_); }

Result<std::vector<Token>> Tokenizer::tokenize(std::string_view text, bool add_special,
                                               SpecialTokens special) const {
  if (text.size() > kMaxTextBytes) {
    return fail(ErrorCode::invalid_argument,
                "a text of " + format_bytes(text.size()) + " is too long to tokenize",
                "Give at most " + format_bytes(kMaxTextBytes));
  }
  const std::size_t run = longest_run(text);
  if (run <= kPlainRun) return tokenize_here(text, add_special, special);
  if (run > kLongestRun) {
    return fail(ErrorCode::invalid_argument,
                "the text has a run of " + std::to_string(run) +
                    " letters, digits, spaces or signs without a break",
                "Give text with words in it");
  }
  Result<std::vector<Token>> tokens = fail(ErrorCode::internal, "");
  PRIMA_RETURN_IF_ERROR(run_on_deep_stack(kPlainStack + run * kStackPerCharacter, [&] {
    tokens = tokenize_here(text, add_special, special);
  }));
  return tokens;
}

Result<std::vector<Token>> Tokenizer::tokenize_here(std::string_view text, bool add_special,
                                                    SpecialTokens special) const {
  const auto n_bytes = static_cast<std::int32_t>(text.size());
  const bool parse = special == SpecialTokens::parsed;
  try {
    // A token rarely spans less than a byte, but the special ones around the text do.
    std::vector<Token> tokens(text.size() + 8);
    std::int32_t n = llama_tokenize(vocab_, text.data(), n_bytes, tokens.data(),
                                    static_cast<std::int32_t>(tokens.size()), add_special, parse);
    if (n < 0) {
      tokens.resize(static_cast<std::size_t>(-n));
      n = llama_tokenize(vocab_, text.data(), n_bytes, tokens.data(),
                         static_cast<std::int32_t>(tokens.size()), add_special, parse);
    }
    if (n < 0) return fail(ErrorCode::internal, "llama.cpp could not tokenize the text");
    tokens.resize(static_cast<std::size_t>(n));
    return tokens;
  } catch (const std::exception& error) {
    return fail(ErrorCode::invalid_argument,
                std::string("the text cannot be tokenized: ") + error.what());
  }
}

std::string Tokenizer::piece(Token token, bool render_special) const {
  std::string bytes(32, '\0');
  const auto write = [&] {
    return llama_token_to_piece(vocab_, token, bytes.data(),
                                static_cast<std::int32_t>(bytes.size()), 0, render_special);
  };
  std::int32_t n = write();
  if (n < 0) {
    bytes.resize(static_cast<std::size_t>(-n));
    n = write();
  }
  bytes.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return bytes;
}

std::string Tokenizer::detokenize(std::span<const Token> tokens, bool render_special) const {
  Utf8Decoder decoder;
  std::string text;
  for (const Token token : tokens) text += decoder.push(piece(token, render_special));
  return text + decoder.finish();
}

bool Tokenizer::is_end_of_generation(Token token) const {
  return llama_vocab_is_eog(vocab_, token);
}
bool Tokenizer::adds_bos() const { return llama_vocab_get_add_bos(vocab_); }
Token Tokenizer::bos() const { return llama_vocab_bos(vocab_); }
Token Tokenizer::eos() const { return llama_vocab_eos(vocab_); }

}  // namespace prima::text

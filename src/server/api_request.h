// Requests as clients write them, checked field by field: what is wrong is named as OpenAI names
// it. Knows nothing of models; limits that depend on one are checked where it is known.
//
// Value types; the functions are thread-safe, and safe on any bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "server/api_error.h"
#include "text/chat_format.h"
#include "text/sampler.h"
#include "text/tokenizer.h"

namespace prima::server {

// What chats and completions have in common.
struct GenerationRequest {
  std::string model;  // empty: the one that is served
  bool stream = false;
  bool include_usage = false;
  std::uint32_t n = 1;
  std::optional<std::uint32_t> max_tokens;
  std::vector<std::string> stops;
  std::optional<std::uint32_t> seed;
  std::optional<std::uint32_t> top_probabilities;  // log-probabilities are wanted
  bool ignore_end = false;
  text::SamplerOptions sampler;  // without seed and grammar
};

struct ChatCompletionRequest {
  GenerationRequest generation;
  text::ChatRequest chat;
};

using Prompt = std::variant<std::string, std::vector<text::Token>>;

struct CompletionRequest {
  GenerationRequest generation;
  std::vector<Prompt> prompts;  // at least one
  bool echo = false;
};

struct EmbeddingRequest {
  std::string model;
  std::vector<Prompt> inputs;  // at least one
  bool base64 = false;         // little-endian floats, not JSON's numbers
  std::optional<std::uint32_t> dimensions;
};

struct TokenizeRequest {
  std::string content;
  bool add_special = false;
  bool parse_special = true;
};

struct DetokenizeRequest {
  std::vector<text::Token> tokens;
};

inline constexpr std::uint32_t kMaxChoices = 16;
inline constexpr std::size_t kMaxEmbeddings = 2048;  // as OpenAI has it

ApiResult<ChatCompletionRequest> parse_chat_completion(std::string_view body);
ApiResult<CompletionRequest> parse_completion(std::string_view body);
ApiResult<EmbeddingRequest> parse_embedding(std::string_view body);
ApiResult<TokenizeRequest> parse_tokenize(std::string_view body);
ApiResult<DetokenizeRequest> parse_detokenize(std::string_view body);

}  // namespace prima::server

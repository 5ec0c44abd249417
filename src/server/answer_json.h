// Answers as OpenAI's API has them: whole, and in chunks.
//
// Value types; the functions are thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "generate/answer.h"
#include "server/json_fields.h"
#include "text/chat_format.h"
#include "text/tokenizer.h"

namespace prima::server {

enum class ApiKind { chat, completion };

// What all parts of one response have in common.
struct ResponseHead {
  ApiKind kind = ApiKind::chat;
  std::string id;
  std::string model;
  std::int64_t created = 0;
};

// A new id, such as "chatcmpl-4f2a...".
std::string random_id(const std::string& prefix);

// {"id", "object", "created", "model", "choices": []}
Json whole(const ResponseHead& head);
Json chunk(const ResponseHead& head);

// OpenAI's word; `has_tool_calls` only in chats.
const char* finish_reason(generate::FinishReason reason, bool has_tool_calls);

// Tokens of the prompt once, and of all answers.
Json usage(std::span<const generate::Statistics> statistics, std::uint32_t n_prompt);

// What an answer cost: Prima's own field.
Json timings(const generate::Statistics& statistics);

// The field "logprobs" of a choice.
Json chat_logprobs(const text::Tokenizer& tokenizer, std::span<const generate::AnswerToken> tokens);
// `offset`: characters of text before the first token.
Json completion_logprobs(const text::Tokenizer& tokenizer,
                         std::span<const generate::AnswerToken> tokens, std::size_t offset);

Json tool_call(const text::ToolCall& call, const std::string& id);

// As a server-sent event.
std::string event(const Json& json);

}  // namespace prima::server

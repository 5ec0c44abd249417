#include "server/answer_json.h"

#include <algorithm>
#include <random>

#include <spdlog/fmt/fmt.h>

namespace prima::server {

namespace {

Json head_json(const ResponseHead& head, const char* object) {
  return {{"id", head.id},
          {"object", object},
          {"created", head.created},
          {"model", head.model},
          {"system_fingerprint", "prima-" PRIMA_VERSION},
          {"choices", Json::array()}};
}

Json bytes_of(const std::string& piece) {
  Json bytes = Json::array();
  for (const char c : piece) bytes.push_back(static_cast<std::uint8_t>(c));
  return bytes;
}

Json token_json(const text::Tokenizer& tokenizer, text::Token token, float log_probability) {
  const std::string piece = tokenizer.piece(token, /*render_special=*/true);
  return {{"token", piece}, {"logprob", log_probability}, {"bytes", bytes_of(piece)}};
}

}  // namespace

std::string random_id(const std::string& prefix) {
  thread_local std::mt19937_64 random(std::random_device{}());
  return fmt::format("{}-{:016x}{:016x}", prefix, random(), random());
}

Json whole(const ResponseHead& head) {
  return head_json(head, head.kind == ApiKind::chat ? "chat.completion" : "text_completion");
}

Json chunk(const ResponseHead& head) {
  return head_json(head, head.kind == ApiKind::chat ? "chat.completion.chunk" : "text_completion");
}

const char* finish_reason(generate::FinishReason reason, bool has_tool_calls) {
  switch (reason) {
    case generate::FinishReason::max_tokens:
    case generate::FinishReason::context_full: return "length";
    case generate::FinishReason::end:
    case generate::FinishReason::stop_string:
    case generate::FinishReason::cancelled: break;
  }
  return has_tool_calls ? "tool_calls" : "stop";
}

Json usage(std::span<const generate::Statistics> statistics, std::uint32_t n_prompt) {
  std::uint32_t n_generated = 0;
  std::uint32_t n_reused = 0;
  std::uint32_t n_accepted = 0;
  std::uint32_t n_drafted = 0;
  for (const generate::Statistics& answer : statistics) {
    n_generated += answer.n_generated;
    n_accepted += answer.n_accepted;
    n_drafted += answer.n_drafted;
    n_reused = std::max(n_reused, answer.n_reused);
  }
  return {{"prompt_tokens", n_prompt},
          {"completion_tokens", n_generated},
          {"total_tokens", n_prompt + n_generated},
          {"prompt_tokens_details", {{"cached_tokens", n_reused}}},
          {"completion_tokens_details",
           {{"accepted_prediction_tokens", n_accepted},
            {"rejected_prediction_tokens", n_drafted - n_accepted}}}};
}

Json timings(const generate::Statistics& statistics) {
  return {{"queued_ms", milliseconds(statistics.queued)},
          {"ttft_ms", milliseconds(statistics.time_to_first_token)},
          {"tpot_ms", milliseconds(statistics.time_per_output_token())},
          {"prompt_tokens", statistics.n_prompt},
          {"cached_tokens", statistics.n_reused},
          {"generated_tokens", statistics.n_generated},
          {"drafted_tokens", statistics.n_drafted},
          {"accepted_tokens", statistics.n_accepted}};
}

Json chat_logprobs(const text::Tokenizer& tokenizer,
                   std::span<const generate::AnswerToken> tokens) {
  Json content = Json::array();
  for (const generate::AnswerToken& token : tokens) {
    Json entry = token_json(tokenizer, token.token, token.log_probability);
    entry["top_logprobs"] = Json::array();
    for (const auto& likely : token.likeliest) {
      entry["top_logprobs"].push_back(token_json(tokenizer, likely.token, likely.log_probability));
    }
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

Json completion_logprobs(const text::Tokenizer& tokenizer,
                         std::span<const generate::AnswerToken> tokens, std::size_t offset) {
  Json result = {{"tokens", Json::array()},
                 {"token_logprobs", Json::array()},
                 {"top_logprobs", Json::array()},
                 {"text_offset", Json::array()}};
  for (const generate::AnswerToken& token : tokens) {
    const std::string piece = tokenizer.piece(token.token, /*render_special=*/true);
    Json likeliest = Json::object();
    for (const auto& likely : token.likeliest) {
      likeliest[tokenizer.piece(likely.token, /*render_special=*/true)] = likely.log_probability;
    }
    result["tokens"].push_back(piece);
    result["token_logprobs"].push_back(token.log_probability);
    result["top_logprobs"].push_back(std::move(likeliest));
    result["text_offset"].push_back(offset);
    offset += piece.size();
  }
  return result;
}

Json tool_call(const text::ToolCall& call, const std::string& id) {
  return {{"id", id},
          {"type", "function"},
          {"function", {{"name", call.name}, {"arguments", call.arguments}}}};
}

std::string event(const Json& json) { return "data: " + print_json(json) + "\n\n"; }

}  // namespace prima::server

#include "server/api_request.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace prima::server {
namespace {

using testing::HasSubstr;

std::string chat(const std::string& more) {
  return R"({"messages": [{"role": "user", "content": "hi"}])" + more + "}";
}

TEST(ChatCompletionRequest, ReadsEveryField) {
  const auto parsed = parse_chat_completion(chat(R"(, "model": "m", "stream": true,
      "stream_options": {"include_usage": true}, "n": 2, "max_completion_tokens": 7,
      "stop": ["a", "b"], "seed": 42, "logprobs": true, "top_logprobs": 3, "temperature": 0.5,
      "top_p": 0.9, "frequency_penalty": 1, "presence_penalty": -1, "user": "somebody",
      "logit_bias": {"5": 2.5, "6": -100}, "response_format": {"type": "text"}, "tools": null)"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  const GenerationRequest& g = parsed->generation;
  EXPECT_EQ(g.model, "m");
  EXPECT_TRUE(g.stream && g.include_usage);
  EXPECT_EQ(g.n, 2u);
  EXPECT_EQ(g.max_tokens, 7u);
  EXPECT_THAT(g.stops, testing::ElementsAre("a", "b"));
  EXPECT_EQ(g.seed, 42u);
  EXPECT_EQ(g.top_probabilities, 3u);
  EXPECT_EQ(g.sampler.temperature, 0.5f);
  EXPECT_EQ(g.sampler.presence_penalty, -1.0f);
  ASSERT_EQ(g.sampler.logit_bias.size(), 2u);
  EXPECT_TRUE(std::isinf(g.sampler.logit_bias[1].bias));
  EXPECT_EQ(parsed->chat.messages, R"([{"role":"user","content":"hi"}])");
}

TEST(ChatCompletionRequest, DefaultsAreOpenAIs) {
  const auto parsed = parse_chat_completion(chat("")).value();
  EXPECT_EQ(parsed.generation.sampler.temperature, 1.0f);
  EXPECT_EQ(parsed.generation.sampler.top_p, 1.0f);
  EXPECT_EQ(parsed.generation.sampler.top_k, 0);
  EXPECT_EQ(parsed.generation.n, 1u);
  EXPECT_FALSE(parsed.generation.max_tokens || parsed.generation.seed);
  EXPECT_FALSE(parsed.generation.stream);
}

TEST(ChatCompletionRequest, FormatsAndTools) {
  EXPECT_EQ(parse_chat_completion(chat(R"(, "response_format": {"type": "json_object"})"))
                ->chat.json_schema,
            R"({"type": "object"})");
  EXPECT_EQ(parse_chat_completion(chat(R"(, "response_format": {"type": "json_schema",
                "json_schema": {"name": "x", "schema": {"enum": [1]}}})"))
                ->chat.json_schema,
            R"({"enum":[1]})");
  const std::string tools = R"(, "tools": [{"type": "function", "function": {"name": "f"}},
                                           {"type": "function", "function": {"name": "g"}}])";
  const auto named = parse_chat_completion(
      chat(tools + R"(, "tool_choice": {"type": "function", "function": {"name": "g"}})"));
  ASSERT_TRUE(named) << named.error().message;
  EXPECT_EQ(named->chat.tool_choice, text::ToolChoice::required);
  EXPECT_THAT(named->chat.tools, HasSubstr("\"g\""));
  EXPECT_THAT(named->chat.tools, Not(HasSubstr("\"f\"")));
  EXPECT_EQ(parse_chat_completion(chat(tools + R"(, "tool_choice": "none")"))->chat.tool_choice,
            text::ToolChoice::none);
}

struct Bad {
  const char* more;
  const char* param;
};

class BadChat : public testing::TestWithParam<Bad> {};

TEST_P(BadChat, IsRefusedNamingTheField) {
  const auto parsed = parse_chat_completion(chat(GetParam().more));
  ASSERT_FALSE(parsed) << GetParam().more;
  EXPECT_EQ(parsed.error().status, 400);
  EXPECT_EQ(parsed.error().param, GetParam().param) << parsed.error().message;
  EXPECT_THAT(parsed.error().message, HasSubstr(GetParam().param));
  EXPECT_THAT(parsed.error().body(), HasSubstr("invalid_request_error"));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadChat,
    testing::Values(
        Bad{R"(, "max_tokens": -1)", "max_tokens"}, Bad{R"(, "max_tokens": 0)", "max_tokens"},
        Bad{R"(, "max_tokens": 1.5)", "max_tokens"}, Bad{R"(, "max_tokens": "7")", "max_tokens"},
        Bad{R"(, "max_tokens": 1e300)", "max_tokens"},
        Bad{R"(, "temperature": -0.1)", "temperature"}, Bad{R"(, "temperature": 3)", "temperature"},
        Bad{R"(, "temperature": "hot")", "temperature"}, Bad{R"(, "top_p": 2)", "top_p"},
        Bad{R"(, "n": 0)", "n"}, Bad{R"(, "n": 1000)", "n"}, Bad{R"(, "stream": "yes")", "stream"},
        Bad{R"(, "stop": [1])", "stop"}, Bad{R"(, "stop": "")", "stop"},
        Bad{R"(, "stop": {})", "stop"}, Bad{R"(, "seed": 0.5)", "seed"},
        Bad{R"(, "logprobs": 5)", "logprobs"}, Bad{R"(, "top_logprobs": 2)", "top_logprobs"},
        Bad{R"(, "logit_bias": {"x": 1})", "logit_bias"},
        Bad{R"(, "logit_bias": {"5": 101})", "logit_bias"},
        Bad{R"(, "logit_bias": {"-5": 1})", "logit_bias"},
        Bad{R"(, "logit_bias": [])", "logit_bias"},
        Bad{R"(, "response_format": {"type": "xml"})", "response_format"},
        Bad{R"(, "response_format": {"type": "json_schema"})", "response_format"},
        Bad{R"(, "tools": {})", "tools"}, Bad{R"(, "tools": [{}])", "tools[0]"},
        Bad{R"(, "tool_choice": "required")", "tool_choice"},
        Bad{R"(, "tool_choice": "sometimes")", "tool_choice"},
        Bad{R"(, "frequency_penalty": 5)", "frequency_penalty"},
        Bad{R"(, "stream_options": 5)", "stream_options"}, Bad{R"(, "model": 5)", "model"}));

TEST(ChatCompletionRequest, BadMessagesAreNamed) {
  const auto param = [](const std::string& messages) {
    const auto parsed = parse_chat_completion(R"({"messages": )" + messages + "}");
    return parsed ? std::string("accepted") : parsed.error().param;
  };
  EXPECT_EQ(param("[]"), "messages");
  EXPECT_EQ(param("\"hi\""), "messages");
  EXPECT_EQ(param("[5]"), "messages[0]");
  EXPECT_EQ(param(R"([{"content": "x"}])"), "messages[0].role");
  EXPECT_EQ(param(R"([{"role": "user"}])"), "messages[0].content");
  EXPECT_EQ(param(R"([{"role": "user", "content": 5}])"), "messages[0].content");
  EXPECT_EQ(param(R"([{"role": "user", "content": [{"type": "image_url"}]}])"),
            "messages[0].content");
  EXPECT_EQ(param(R"([{"role": "user", "content": [{"type": "text", "text": "x"}]}])"), "accepted");
}

TEST(Bodies, WhatIsNoJsonObjectIsRefused) {
  for (const std::string& body :
       {std::string(), std::string("x"), std::string("[]"), std::string("7"), std::string("{"),
        std::string("{\"prompt\": \"\xff\"}"), std::string("{\"prompt\": \"a\0b\"}", 17),
        "{\"a\": " + std::string(100000, '[') + std::string(100000, ']') + "}"}) {
    const auto parsed = parse_completion(body);
    ASSERT_FALSE(parsed);
    EXPECT_EQ(parsed.error().status, 400);
    EXPECT_FALSE(parsed.error().message.empty());
  }
}

TEST(EmbeddingRequest, InputsInEveryShape) {
  EXPECT_EQ(parse_embedding(R"({"input": "a"})")->inputs.size(), 1u);
  EXPECT_EQ(parse_embedding(R"({"input": [[1, 2], "b"]})")->inputs.size(), 2u);
  EXPECT_TRUE(parse_embedding(R"({"input": "a", "encoding_format": "base64"})")->base64);
  EXPECT_EQ(parse_embedding(R"({"input": "a", "dimensions": 8})")->dimensions, 8u);
  std::string many = R"({"input": ["a")";
  for (std::size_t i = 0; i < kMaxEmbeddings; ++i) many += R"(, "a")";
  EXPECT_EQ(parse_embedding(many + "]}").error().param, "input");
}

TEST(CompletionRequest, PromptsInEveryShape) {
  EXPECT_EQ(parse_completion(R"({"prompt": "a"})")->prompts.size(), 1u);
  EXPECT_EQ(parse_completion(R"({"prompt": ["a", "b"]})")->prompts.size(), 2u);
  EXPECT_EQ(std::get<1>(parse_completion(R"({"prompt": [1, 2]})")->prompts[0]).size(), 2u);
  EXPECT_EQ(parse_completion(R"({"prompt": [[1, 2], [3]]})")->prompts.size(), 2u);
  for (const char* bad : {R"({})", R"({"prompt": []})", R"({"prompt": 5})", R"({"prompt": [1.5]})",
                          R"({"prompt": [-1]})", R"({"prompt": [{}]})", R"({"prompt": null})"}) {
    const auto parsed = parse_completion(bad);
    ASSERT_FALSE(parsed) << bad;
    EXPECT_EQ(parsed.error().param, "prompt");
  }
  EXPECT_FALSE(parse_completion(R"({"prompt": "a", "suffix": "b"})"));
  EXPECT_FALSE(parse_completion(R"({"prompt": "a", "best_of": 3})"));
}

}  // namespace
}  // namespace prima::server

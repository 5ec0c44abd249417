#include "text/chat_format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/test_vocabulary.h"

namespace prima::text {
namespace {

// As Hermes and Qwen models have it.
constexpr const char* kTemplate = R"({%- if tools %}<|im_start|>system
You may call these functions:
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
Call one with <tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == "assistant" %}<|im_start|>assistant
{{ message.content }}
{%- if message.tool_calls %}{%- for tool_call in message.tool_calls %}
<tool_call>
{"name": "{{ tool_call.function.name }}", "arguments": {{ tool_call.function.arguments | tojson }}}
</tool_call>{%- endfor %}{%- endif %}<|im_end|>
{% elif message.role == "tool" %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %})";

constexpr const char* kTools = R"([{"type": "function", "function": {"name": "get_weather",
  "description": "The weather in a city", "parameters": {"type": "object",
  "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}}, "required": ["city"]}}}])";

class ChatFormatTest : public testing::Test {
 protected:
  Result<ChatPrompt> render(const ChatRequest& request) {
    return render_chat(chat_template, tokenizer, request);
  }

  TestVocabulary vocabulary{kTemplate};
  Tokenizer tokenizer = Tokenizer::load(vocabulary.path()).value();
  ChatTemplate chat_template = ChatTemplate::load(tokenizer).value();
  const std::string messages = R"([{"role": "user", "content": "hello"}])";
};

TEST_F(ChatFormatTest, PlainAnswersAreTheirOwnContent) {
  const auto prompt = render({.messages = messages}).value();
  EXPECT_THAT(prompt.text, testing::HasSubstr("<|im_start|>user\nhello<|im_end|>"));
  EXPECT_TRUE(prompt.text.ends_with("<|im_start|>assistant\n")) << prompt.text;
  EXPECT_TRUE(prompt.format.is_plain());
  EXPECT_TRUE(prompt.grammar.gbnf.empty());
  EXPECT_EQ(prompt.format.parse("<tool_call>", true).value().content, "<tool_call>");
}

TEST_F(ChatFormatTest, ToolCallsAreReadFromTheAnswer) {
  const auto prompt = render({.messages = messages, .tools = kTools}).value();
  EXPECT_THAT(prompt.text, testing::HasSubstr("get_weather"));
  EXPECT_TRUE(prompt.grammar.lazy);
  const auto answer = prompt.format
                          .parse(
                              "Let me see.\n<tool_call>\n{\"name\": \"get_weather\", "
                              "\"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>",
                              false)
                          .value();
  ASSERT_EQ(answer.tool_calls.size(), 1u);
  EXPECT_EQ(answer.tool_calls[0].name, "get_weather");
  EXPECT_THAT(answer.tool_calls[0].arguments, testing::HasSubstr("Oslo"));
  EXPECT_THAT(answer.content, testing::HasSubstr("Let me see."));

  const auto text = prompt.format.parse("Just text", false).value();
  EXPECT_EQ(text.content, "Just text");
  EXPECT_TRUE(text.tool_calls.empty());
}

TEST_F(ChatFormatTest, ARequiredCallIsForcedByTheGrammar) {
  const auto prompt =
      render({.messages = messages, .tools = kTools, .tool_choice = ToolChoice::required}).value();
  EXPECT_FALSE(prompt.grammar.lazy);
  auto made = Sampler::create(tokenizer, {.temperature = 0, .grammar = prompt.grammar});
  ASSERT_TRUE(made) << made.error().message() << "\n" << prompt.grammar.gbnf;
  Sampler& sampler = *made;
  // Whatever the model would like to say, it is a call.
  std::string text;
  for (int i = 0; i < 400; ++i) {
    std::vector<float> logits(static_cast<std::size_t>(tokenizer.n_vocab()));
    for (std::size_t t = 0; t < logits.size(); ++t) {
      logits[t] = static_cast<float>((t * 31 + static_cast<std::size_t>(i) * 17) % 101);
    }
    logits[static_cast<std::size_t>(vocabulary.token("\xE2\x96\x81"))] = -100;  // no endless spaces
    const auto token = sampler.sample(logits);
    ASSERT_TRUE(token) << token.error().message() << " after " << text;
    ASSERT_TRUE(sampler.accept(*token));
    if (tokenizer.is_end_of_generation(*token)) break;
    text += tokenizer.piece(*token, prompt.shown_specials.contains(*token));
  }
  const auto answer = prompt.format.parse(text, false);
  ASSERT_TRUE(answer) << answer.error().message() << ": " << text;
  ASSERT_EQ(answer->tool_calls.size(), 1u) << text;
  EXPECT_EQ(answer->tool_calls[0].name, "get_weather");
}

TEST_F(ChatFormatTest, ResultsOfToolsAreToldToTheModel) {
  const auto prompt = render({.messages = R"([
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": null, "tool_calls": [{"id": "call1", "type": "function",
      "function": {"name": "get_weather", "arguments": "{\"city\": \"Oslo\"}"}}]},
    {"role": "tool", "tool_call_id": "call1", "content": "sunny"}])",
                              .tools = kTools});
  ASSERT_TRUE(prompt) << prompt.error().message();
  EXPECT_THAT(prompt->text, testing::HasSubstr("sunny"));
  EXPECT_THAT(prompt->text, testing::HasSubstr("Oslo"));
}

TEST_F(ChatFormatTest, ASchemaBecomesAGrammar) {
  const auto prompt =
      render({.messages = messages, .json_schema = R"({"enum": ["yes", "no"]})"}).value();
  EXPECT_FALSE(prompt.grammar.gbnf.empty());
  EXPECT_FALSE(prompt.grammar.lazy);
}

TEST_F(ChatFormatTest, WhatCannotBeIsRefused) {
  for (const char* bad :
       {"", "7", "[7]", "[{}]", R"([{"role": "user"}])", R"([{"role": "user", "content": 7}])",
        R"([{"role": "user", "content": [{"type": "image_url"}]}])"}) {
    const auto prompt = render({.messages = bad});
    ASSERT_FALSE(prompt) << bad;
    EXPECT_EQ(prompt.error().code, ErrorCode::invalid_argument);
  }
  EXPECT_FALSE(render({.messages = messages, .tools = "[{}]"}));
  EXPECT_FALSE(render({.messages = messages, .json_schema = "{"}));
}

TEST_F(ChatFormatTest, ATemplateWithoutToolsCannotBeRequiredToCallOne) {
  const auto without =
      ChatTemplate::load(tokenizer, "{% for m in messages %}{{ m.content }}{% endfor %}").value();
  const auto prompt =
      render_chat(without, tokenizer,
                  {.messages = messages, .tools = kTools, .tool_choice = ToolChoice::required});
  ASSERT_FALSE(prompt);
  EXPECT_EQ(prompt.error().code, ErrorCode::invalid_argument);
}

}  // namespace
}  // namespace prima::text

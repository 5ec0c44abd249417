// Conversations with tools and answers of a given form, as chat programs ask for them in OpenAI's
// JSON: what the model's template makes of them, and how its answer is read back. By llama.cpp's
// common chat code.
//
// Value types; an AnswerFormat is immutable and may be used from any thread.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/chat_template.h"
#include "text/sampler.h"
#include "text/tokenizer.h"

namespace prima::text {

enum class ToolChoice { automatic, required, none };

struct ChatRequest {
  std::string messages;    // JSON: an array of messages
  std::string tools = {};  // JSON: an array of tools; empty: none
  ToolChoice tool_choice = ToolChoice::automatic;
  bool parallel_tool_calls = false;
  std::string json_schema = {};  // JSON: of the answer; empty: any answer
};

struct ToolCall {
  std::string name;
  std::string arguments;  // JSON
  std::string id;         // empty where the model's format has none

  friend bool operator==(const ToolCall&, const ToolCall&) = default;
};

struct ParsedAnswer {
  std::string content;
  std::string reasoning;
  std::vector<ToolCall> tool_calls;
};

// How the answer to one prompt is read.
class AnswerFormat {
 public:
  // Answers are their own content.
  AnswerFormat();

  // True where the content is the text as it is: nothing needs to be parsed.
  bool is_plain() const { return parser_ == nullptr; }

  // `partial`: the text may go on. Fails with internal where the text contradicts the format.
  Result<ParsedAnswer> parse(const std::string& text, bool partial) const;

 private:
  friend Result<struct ChatPrompt> render_chat(const ChatTemplate&, const Tokenizer&,
                                               const ChatRequest&);
  struct Parser;

  std::shared_ptr<const Parser> parser_;
};

struct ChatPrompt {
  std::string text;  // to be tokenized with add_special and SpecialTokens::parsed
  Grammar grammar;
  std::vector<std::string> stops;
  std::set<Token> shown_specials;  // control tokens that belong to the answer's text
  AnswerFormat format;
};

// Fails with invalid_argument, saying what of the request cannot be.
Result<ChatPrompt> render_chat(const ChatTemplate& chat_template, const Tokenizer& tokenizer,
                               const ChatRequest& request);

}  // namespace prima::text

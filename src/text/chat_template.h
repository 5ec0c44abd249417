// Conversations as the text a model was trained on: its own Jinja template, run by llama.cpp's
// common chat code, or ChatML for a model that has none.
//
// Immutable, so safe to use from any thread. Movable.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/tokenizer.h"

struct common_chat_templates;

namespace prima::text {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant", "tool"
  std::string content;

  friend bool operator==(const ChatMessage&, const ChatMessage&) = default;
};

class ChatTemplate {
 public:
  // The tokenizer's model's template; `source`, if not empty, instead of it. Fails with
  // invalid_argument if Jinja cannot be parsed, or if a first rendering crashes or does not end.
  static Result<ChatTemplate> load(const Tokenizer& tokenizer, const std::string& source = "");

  // False if neither the model nor the caller gave one, and ChatML stands in.
  bool is_the_models() const;

  // The conversation up to where the assistant's next answer begins. Tokenize it with
  // add_special and SpecialTokens::parsed: a BOS that the template writes and the tokenizer would
  // add again is left out. Fails with invalid_argument if the template refuses the conversation.
  Result<std::string> render(std::span<const ChatMessage> messages) const;

  // For requests with tools, reasoning formats and answer parsers, which llama.cpp's
  // common_chat_templates_apply() takes with this. Never null.
  const common_chat_templates* templates() const { return templates_.get(); }

 private:
  struct FreeTemplates {
    void operator()(common_chat_templates* templates) const;
  };

  ChatTemplate() = default;

  static Result<ChatTemplate> load_trusted(const Tokenizer& tokenizer, const std::string& source);

  std::unique_ptr<common_chat_templates, FreeTemplates> templates_;
};

}  // namespace prima::text

#include "text/chat_template.h"

#include <exception>

#include <chat.h>  // llama.cpp's common/chat.h
#include <llama.h>

#include "text/llama_log.h"
#include "text/trial.h"

namespace prima::text {

namespace {

// What is wrong with a template that common_chat_templates_init() refused: it rethrows without the
// reason.
std::string reason_refused(const Tokenizer& tokenizer, std::string source) {
  if (source.empty()) {
    const char* own = llama_model_chat_template(tokenizer.model(), nullptr);
    if (own != nullptr) source = own;
  }
  try {
    const common_chat_template parsed(source, "", "");
  } catch (const std::exception& error) {
    return error.what();
  }
  return "unknown reason";
}

}  // namespace

void ChatTemplate::FreeTemplates::operator()(common_chat_templates* templates) const {
  common_chat_templates_free(templates);
}

Result<ChatTemplate> ChatTemplate::load(const Tokenizer& tokenizer, const std::string& source) {
  route_llama_log();
  const auto load_and_render = [&]() -> Status {
    PRIMA_ASSIGN_OR_RETURN(const ChatTemplate tried, load_trusted(tokenizer, source));
    // A template may refuse this conversation; it may not die of it.
    static_cast<void>(tried.render(std::vector<ChatMessage>{{"user", "Hello"}}));
    return {};
  };
  PRIMA_RETURN_IF_ERROR(try_in_child("the chat template", load_and_render));
  return load_trusted(tokenizer, source);
}

Result<ChatTemplate> ChatTemplate::load_trusted(const Tokenizer& tokenizer,
                                                const std::string& source) {
  ChatTemplate result;
  try {
    result.templates_.reset(common_chat_templates_init(tokenizer.model(), source).release());
  } catch (const std::exception&) {
    return fail(ErrorCode::invalid_argument,
                "the chat template is not valid: " + reason_refused(tokenizer, source),
                source.empty() ? "The model's own is broken; give another, or use --raw"
                               : "Correct the template");
  }
  return result;
}

bool ChatTemplate::is_the_models() const {
  return common_chat_templates_was_explicit(templates_.get());
}

Result<std::string> ChatTemplate::render(std::span<const ChatMessage> messages) const {
  common_chat_templates_inputs inputs;
  // Only the prompt is wanted here: no parser of the answer, whose making renders the template a
  // dozen times.
  inputs.force_pure_content = true;
  for (const ChatMessage& message : messages) {
    common_chat_msg& out = inputs.messages.emplace_back();
    out.role = message.role;
    out.content = message.content;
  }
  try {
    return common_chat_templates_apply(templates_.get(), inputs).prompt;
  } catch (const std::exception& error) {
    return fail(ErrorCode::invalid_argument,
                std::string("the model's chat template refuses this conversation: ") + error.what(),
                "Change the messages, or use --raw to write the whole prompt yourself");
  }
}

}  // namespace prima::text

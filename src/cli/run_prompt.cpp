#include "cli/run_prompt.h"

#include <unistd.h>

#include "cli/text_file.h"

namespace prima::cli {

namespace {

// Editors and echo end a text with a line end that nobody means to ask.
std::string without_last_line_end(std::string text) {
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  return text;
}

}  // namespace

Result<std::optional<std::string>> read_prompt(const RunOptions& options) {
  std::string prompt;
  const char* source = "-p";
  if (options.prompt) {
    prompt = *options.prompt;
  } else if (options.prompt_file) {
    source = "-f";
    PRIMA_ASSIGN_OR_RETURN(prompt, read_text_file(*options.prompt_file));
    prompt = without_last_line_end(std::move(prompt));
  } else if (::isatty(STDIN_FILENO) != 0) {
    return std::nullopt;
  } else {
    source = "standard input";
    PRIMA_ASSIGN_OR_RETURN(prompt, read_standard_input());
    prompt = without_last_line_end(std::move(prompt));
  }
  if (prompt.empty()) {
    return fail(ErrorCode::invalid_argument, std::string("the prompt is empty (") + source + ")",
                "Give a text with -p, -f or on standard input; on a terminal, leave them out to "
                "chat");
  }
  return prompt;
}

Result<std::optional<text::ChatTemplate>> choose_template(const RunOptions& options,
                                                          const text::Tokenizer& tokenizer,
                                                          bool interactive) {
  const std::string file = options.model.filename().string();
  if (options.raw) {
    if (!interactive) return std::nullopt;
    return fail(ErrorCode::invalid_argument, "--raw needs a prompt to continue",
                "Give one with -p, -f or on standard input");
  }
  std::string source;
  if (options.chat_template_file) {
    PRIMA_ASSIGN_OR_RETURN(source, read_text_file(*options.chat_template_file));
    if (source.empty()) {
      return fail(ErrorCode::invalid_argument, options.chat_template_file->string() + " is empty",
                  "Give a Jinja template");
    }
  }
  PRIMA_ASSIGN_OR_RETURN(text::ChatTemplate chat, text::ChatTemplate::load(tokenizer, source));
  if (!source.empty() || chat.is_the_models()) return chat;
  if (interactive) {
    return fail(ErrorCode::invalid_argument, file + " has no chat template, so it cannot chat",
                "Give a text to continue with -p, a template with --chat-template, or a model "
                "trained for chat");
  }
  if (!options.system.empty()) {
    return fail(ErrorCode::invalid_argument,
                file + " has no chat template, so --system has no place to go",
                "Write it into the prompt, or give a template with --chat-template");
  }
  return std::nullopt;
}

Result<std::vector<text::Token>> chat_prompt(const text::Tokenizer& tokenizer,
                                             const text::ChatTemplate& chat,
                                             std::span<const text::ChatMessage> messages) {
  PRIMA_ASSIGN_OR_RETURN(const std::string rendered, chat.render(messages));
  return tokenizer.tokenize(rendered, /*add_special=*/true, text::SpecialTokens::parsed);
}

Result<std::vector<text::Token>> single_prompt(const text::Tokenizer& tokenizer,
                                               const text::ChatTemplate* chat,
                                               const std::string& system,
                                               const std::string& prompt) {
  if (chat == nullptr) {
    // Parsed, so that one who writes the whole prompt can write its special tokens.
    return tokenizer.tokenize(prompt, /*add_special=*/true, text::SpecialTokens::parsed);
  }
  std::vector<text::ChatMessage> messages;
  if (!system.empty()) messages.push_back({"system", system});
  messages.push_back({"user", prompt});
  return chat_prompt(tokenizer, *chat, messages);
}

Status check_fits(std::size_t n_prompt, std::uint32_t n_ctx, std::uint32_t n_ctx_train) {
  if (n_prompt <= n_ctx) return {};
  return fail(ErrorCode::invalid_argument,
              "the prompt has " + std::to_string(n_prompt) + " tokens, the context holds " +
                  std::to_string(n_ctx),
              n_ctx < n_ctx_train ? "Shorten it, or give a larger context with -c (this model was "
                                    "trained for up to " +
                                        std::to_string(n_ctx_train) + ")"
                                  : "Shorten it: the model was trained for no larger context");
}

}  // namespace prima::cli

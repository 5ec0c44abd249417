// From what the user asks to the tokens of the prompt.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/run_options.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace prima::cli {

// -p, -f or standard input; nullopt if none of them is given and a person sits at the terminal.
// Fails with invalid_argument where the prompt is empty.
Result<std::optional<std::string>> read_prompt(const RunOptions& options);

// The template that the prompt is written into: the user's or the model's. nullopt: the prompt is
// continued as it stands, for --raw and for models without a template. Fails with invalid_argument
// where a template is needed and there is none, or it is broken.
Result<std::optional<text::ChatTemplate>> choose_template(const RunOptions& options,
                                                          const text::Tokenizer& tokenizer,
                                                          bool interactive);

// A conversation, as far as to the next answer. Fails with invalid_argument.
Result<std::vector<text::Token>> chat_prompt(const text::Tokenizer& tokenizer,
                                             const text::ChatTemplate& chat,
                                             std::span<const text::ChatMessage> messages);

// One prompt: a question where `chat` is not null, else a text to continue.
Result<std::vector<text::Token>> single_prompt(const text::Tokenizer& tokenizer,
                                               const text::ChatTemplate* chat,
                                               const std::string& system,
                                               const std::string& prompt);

// Fails with invalid_argument if the prompt is longer than the context.
Status check_fits(std::size_t n_prompt, std::uint32_t n_ctx, std::uint32_t n_ctx_train);

}  // namespace prima::cli

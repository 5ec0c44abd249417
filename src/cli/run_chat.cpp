#include "cli/run_chat.h"

#include <cstdio>
#include <iostream>
#include <string>

#include "cli/exit_code.h"
#include "cli/run_prompt.h"
#include "cli/run_report.h"

namespace prima::cli {

namespace {

using Messages = std::vector<text::ChatMessage>;

Messages new_conversation(const RunOptions& options) {
  Messages messages;
  if (!options.system.empty()) messages.push_back({"system", options.system});
  return messages;
}

// One line from the terminal; false at its end.
bool read_line(std::string& line) {
  std::fputs("> ", stderr);
  std::fflush(stderr);
  return static_cast<bool>(std::getline(std::cin, line));
}

Result<generate::Answer> reply(const AnswerContext& context,
                               const text::ChatTemplate& chat_template, const Messages& messages,
                               generate::Sequence& sequence, std::uint32_t n_ctx_train) {
  PRIMA_ASSIGN_OR_RETURN(std::vector<text::Token> prompt,
                         chat_prompt(context.tokenizer, chat_template, messages));
  PRIMA_RETURN_IF_ERROR(check_fits(prompt.size(), context.engine.n_ctx(), n_ctx_train));
  return write_answer(context, sequence, std::move(prompt));
}

}  // namespace

Status chat(const AnswerContext& context, const text::ChatTemplate& chat_template,
            const ring::Ring& ring, std::uint32_t n_ctx_train) {
  std::fputs("Ctrl-C ends an answer, /reset starts a new conversation, Ctrl-D leaves.\n", stderr);
  generate::Sequence sequence(0);
  Messages messages = new_conversation(context.options);
  for (std::string line; read_line(line);) {
    if (line.empty()) continue;
    if (line == "/reset") {
      messages = new_conversation(context.options);
      continue;
    }
    messages.push_back({"user", line});
    const auto answer = reply(context, chat_template, messages, sequence, n_ctx_train);
    if (!answer && answer.error().code != ErrorCode::invalid_argument) {
      return tl::unexpected(answer.error());
    }
    if (!answer) {
      report(answer.error());
      std::fputs("Your message was left out; /reset starts a new conversation.\n", stderr);
      messages.pop_back();
      continue;
    }
    messages.push_back({"assistant", answer->text});
    print_figures(*answer, ring.describe(), context.engine.n_ctx());
    context.interrupt.clear();
  }
  std::fputc('\n', stderr);
  return {};
}

}  // namespace prima::cli

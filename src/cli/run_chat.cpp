#include "cli/run_chat.h"

#include <array>
#include <cstdio>
#include <optional>
#include <string>

#include <unistd.h>

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

// Lines from the terminal.
class LineReader {
 public:
  // `read`: what is read beyond the lines returned.
  LineReader(const InterruptGuard& interrupt, std::string& read)
      : interrupt_(interrupt), read_(read) {}

  // nullopt at the end of input (Ctrl-D) and at Ctrl-C.
  std::optional<std::string> next() {
    std::fputs("> ", stderr);
    std::fflush(stderr);
    for (;;) {
      const std::size_t end = read_.find('\n');
      if (end != std::string::npos) {
        std::string line = read_.substr(0, end);
        read_.erase(0, end + 1);
        return line;
      }
      std::array<char, 4096> buffer;
      if (!interrupt_.wait_readable(STDIN_FILENO)) return std::nullopt;
      const ssize_t n = ::read(STDIN_FILENO, buffer.data(), buffer.size());
      if (n <= 0) return std::nullopt;
      read_.append(buffer.data(), static_cast<std::size_t>(n));
    }
  }

 private:
  const InterruptGuard& interrupt_;
  std::string& read_;
};

Result<generate::Answer> reply(const AnswerContext& context,
                               const text::ChatTemplate& chat_template, const Messages& messages,
                               std::uint32_t n_ctx_train) {
  PRIMA_ASSIGN_OR_RETURN(std::vector<text::Token> prompt,
                         chat_prompt(context.tokenizer, chat_template, messages));
  PRIMA_RETURN_IF_ERROR(check_fits(prompt.size(), context.batcher.max_context(), n_ctx_train));
  return write_answer(context, std::move(prompt));
}

}  // namespace

Result<ChatEnd> chat(const AnswerContext& context, const text::ChatTemplate& chat_template,
                     ring::Ring& ring, std::uint32_t n_ctx_train, Conversation& conversation) {
  Messages& messages = conversation.messages;
  if (!conversation.awaits_answer) {
    std::fputs("Ctrl-C ends an answer, /reset starts a new conversation, Ctrl-D leaves.\n", stderr);
    messages = new_conversation(context.options);
  }
  LineReader lines(context.interrupt, conversation.read_ahead);
  while (true) {
    if (!conversation.awaits_answer) {
      const auto line = lines.next();
      if (!line) break;
      if (line->empty()) continue;
      if (*line == "/reset") {
        messages = new_conversation(context.options);
        continue;
      }
      messages.push_back({"user", *line});
      conversation.awaits_answer = true;
      if (const auto reason = ring.reason_to_form_anew()) {
        std::fprintf(stderr, "Forming the ring anew: %s.\n", reason->c_str());
        return ChatEnd::for_new_ring;
      }
    }
    const auto answer = reply(context, chat_template, messages, n_ctx_train);
    if (!answer && answer.error().code == ErrorCode::unavailable) {
      std::fprintf(stderr, "\n%s. Forming the ring anew.\n", answer.error().what.c_str());
      return ChatEnd::for_new_ring;
    }
    if (!answer && answer.error().code != ErrorCode::invalid_argument) {
      return tl::unexpected(answer.error());
    }
    conversation.awaits_answer = false;
    if (!answer) {
      report(answer.error());
      std::fputs("Your message was left out; /reset starts a new conversation.\n", stderr);
      messages.pop_back();
      continue;
    }
    messages.push_back({"assistant", answer->text});
    print_figures(*answer, ring.describe(), context.batcher.max_context());
    context.interrupt.clear();
  }
  std::fputc('\n', stderr);
  return ChatEnd::left;
}

}  // namespace prima::cli

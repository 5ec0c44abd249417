#include "cli/chat_command.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/clock.h"
#include "cli/chat_partner.h"
#include "cli/exit_code.h"
#include "cli/interrupt.h"
#include "cli/line_editor.h"
#include "cli/run_options.h"

namespace prima::cli {

namespace {

constexpr const char* kChatFooter =
    "With a server (prima serve), or with -m a model in this process. On the terminal: arrow keys\n"
    "edit and bring back earlier messages, Alt-Enter or a \"\\\" at the end of a line begins "
    "another\n"
    "one, Ctrl-C ends an answer, Ctrl-D the conversation. /help lists what else there is.\n"
    "\n"
    "Examples:\n"
    "  prima chat\n"
    "  prima chat --server http://192.168.1.7:8080 --api-key SECRET\n"
    "  prima chat -m model.gguf --workers 2 --draft ngram\n";

constexpr const char* kHelp =
    "/help   this list\n"
    "/reset  a new conversation\n"
    "/stats  what the last answer and the whole conversation took\n"
    "/exit   leave, as Ctrl-D does\n"
    "Alt-Enter, or a \\ at the end of the line: another line. Up: earlier messages.\n"
    "Ctrl-C ends an answer.\n";

constexpr const char* kDefaultServer = "http://127.0.0.1:8080";

struct ChatOptions {
  std::string server;
  std::string api_key;
  RunOptions run;
};

// Where programs keep what they remember of their user (the XDG base directories).
std::filesystem::path history_file() {
  if (const char* state = std::getenv("XDG_STATE_HOME"); state != nullptr && *state != '\0') {
    return std::filesystem::path(state) / "prima" / "chat_history";
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') {
    return std::filesystem::path(home) / ".local" / "state" / "prima" / "chat_history";
  }
  return {};
}

// Of one conversation.
struct ChatStatistics {
  std::uint32_t answers = 0;
  std::uint64_t n_generated = 0;
  std::uint64_t n_drafted = 0;
  std::uint64_t n_accepted = 0;
  Duration decoding{};
  ChatReply last;

  void count(const ChatReply& reply) {
    ++answers;
    n_generated += reply.n_generated;
    n_drafted += reply.n_drafted;
    n_accepted += reply.n_accepted;
    if (reply.n_generated > 1) decoding += reply.time_per_output_token * (reply.n_generated - 1);
    last = reply;
    last.text.clear();
  }
};

void print_statistics(const ChatStatistics& s) {
  if (s.answers == 0) {
    std::fputs("Nothing was answered yet.\n", stderr);
    return;
  }
  std::fprintf(stderr, "Last answer: %u tokens of prompt (%u reused), %u written; TTFT %.0f ms, ",
               s.last.n_prompt, s.last.n_reused, s.last.n_generated,
               milliseconds(s.last.time_to_first_token));
  std::fprintf(stderr, "TPOT %.1f ms\n", milliseconds(s.last.time_per_output_token));
  const double written =
      static_cast<double>(s.n_generated - std::min<std::uint64_t>(s.answers, s.n_generated));
  std::fprintf(stderr, "Conversation: %u answers, %llu tokens written, %.1f tokens/s\n", s.answers,
               static_cast<unsigned long long>(s.n_generated),
               s.decoding > Duration{} ? written / seconds(s.decoding) : 0.0);
  if (s.n_drafted > 0) {
    std::fprintf(stderr, "Drafted: %llu tokens, %.0f %% of them right\n",
                 static_cast<unsigned long long>(s.n_drafted),
                 100.0 * static_cast<double>(s.n_accepted) / static_cast<double>(s.n_drafted));
  }
}

class Conversation {
 public:
  Conversation(ChatPartner& partner, const std::string& system, InterruptGuard& interrupt)
      : partner_(partner), system_(system), interrupt_(interrupt) {
    reset();
  }

  // Until the end of the input. Fails where the partner does.
  Status run() {
    LineEditor editor(history_file());
    std::fprintf(stderr, "%s. /help says what there is, Ctrl-D leaves.\n", partner_.name().c_str());
    for (;;) {
      const LineEditor::Line line = editor.read("> ");
      if (line.end == LineEditor::End::ended || line.text == "/exit") return {};
      if (line.end == LineEditor::End::given_up || line.text.empty()) continue;
      if (line.text.starts_with('/') && command(line.text)) continue;
      PRIMA_RETURN_IF_ERROR(ask(line.text));
    }
  }

 private:
  // False where it is none: a message may begin with a slash.
  bool command(const std::string& text) {
    if (text == "/help") {
      std::fputs(kHelp, stderr);
    } else if (text == "/reset") {
      reset();
      std::fputs("A new conversation.\n", stderr);
    } else if (text == "/stats") {
      print_statistics(statistics_);
    } else {
      return false;
    }
    return true;
  }

  void reset() {
    messages_.clear();
    statistics_ = {};
    if (!system_.empty()) messages_.push_back({"system", system_});
  }

  Status ask(const std::string& text) {
    messages_.push_back({"user", text});
    auto answer = partner_.reply(messages_);
    interrupt_.clear();
    if (!answer && answer.error().code == ErrorCode::invalid_argument) {
      messages_.pop_back();
      report(answer.error());
      std::fputs("Your message was left out; /reset starts a new conversation.\n", stderr);
      return {};
    }
    PRIMA_RETURN_IF_ERROR(answer);
    statistics_.count(*answer);
    messages_.push_back({"assistant", answer->text});
    return {};
  }

  ChatPartner& partner_;
  const std::string system_;
  InterruptGuard& interrupt_;
  std::vector<text::ChatMessage> messages_;
  ChatStatistics statistics_;
};

Result<int> chat(const ChatOptions& options) {
  if (!options.server.empty() && !options.run.model.empty()) {
    return fail(ErrorCode::invalid_argument, "--server and -m both say who answers",
                "Use one of them");
  }
  PRIMA_RETURN_IF_ERROR(check(options.run));
  const SystemClock clock;
  InterruptGuard interrupt;
  std::unique_ptr<ChatPartner> partner;
  if (options.run.model.empty()) {
    const std::string url = options.server.empty() ? kDefaultServer : options.server;
    PRIMA_ASSIGN_OR_RETURN(partner,
                           connect_to_server(url, options.api_key, options.run, interrupt, clock));
  } else {
    PRIMA_ASSIGN_OR_RETURN(partner, load_model(options.run, interrupt, clock));
  }
  PRIMA_RETURN_IF_ERROR(Conversation(*partner, options.run.system, interrupt).run());
  return kSuccess;
}

}  // namespace

void add_chat_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("chat", "Chat with a server, or with a model");
  command->footer(kChatFooter);
  auto options = std::make_shared<ChatOptions>();
  command->add_option("--server", options->server,
                      std::string("Where prima serve listens (") + kDefaultServer + ")");
  command->add_option("--api-key", options->api_key, "The server's key");
  add_conversation_options(*command, options->run);
  command->callback([options, &exit_code] {
    const auto result = chat(*options);
    exit_code = result ? *result : report(result.error());
  });
}

}  // namespace prima::cli

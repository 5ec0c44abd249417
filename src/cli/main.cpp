// The program: one subcommand per file of this folder (x_command.h), registered by commands.cpp.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/log.h"
#include "cli/commands.h"
#include "cli/exit_code.h"

namespace {

constexpr const char* kDescription =
    "Prima runs one large language model on several of your own devices together:\n"
    "laptops, desktops, phones. Each holds some of its layers; tokens travel the\n"
    "devices in a ring. One device alone works too.\n";

constexpr const char* kExamples =
    "Examples:\n"
    "  Answer one question on this computer:\n"
    "      prima run -m model.gguf -p \"Why is the sky blue?\"\n"
    "  Chat (no prompt given); Ctrl-D leaves:\n"
    "      prima run -m model.gguf\n"
    "  Share the work: \"prima join -m model.gguf\" on two other devices, then here\n"
    "      prima run -m model.gguf --workers 2 -p \"Why is the sky blue?\"\n"
    "\n"
    "Each subcommand explains itself: prima run --help\n";

// Options that a parent app has work after the subcommand's name too: "prima run -v".
void let_options_fall_through(CLI::App& app) {
  for (CLI::App* subcommand : app.get_subcommands([](CLI::App*) { return true; })) {
    subcommand->fallthrough();
    let_options_fall_through(*subcommand);
  }
}

// "prima run": the subcommands that were named, as far as they were understood.
std::string command_line(const CLI::App& app) {
  std::string line = app.get_name();
  for (const CLI::App* subcommand : app.get_subcommands()) line += " " + command_line(*subcommand);
  return line;
}

int run(int argc, char** argv) {
  CLI::App app{kDescription, "prima"};
  app.set_version_flag("--version", "prima " PRIMA_VERSION);
  bool verbose = false;
  app.add_flag("-v,--verbose", verbose, "Say what happens, on standard error");
  app.parse_complete_callback([&verbose] {
    // "debug" and "warn" are levels that exist.
    static_cast<void>(prima::log::start(verbose ? "debug" : "warn"));
  });

  int exit_code = prima::cli::kSuccess;
  prima::cli::add_commands(app, exit_code);
  let_options_fall_through(app);
  app.footer(kExamples);  // not before: subcommands without a footer would inherit it
  app.require_subcommand(0, 1);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // CLI11 grants --help and --version before it looks at what it did not understand.
    const std::vector<std::string> unknown = app.remaining(true);
    if (error.get_exit_code() == 0 && unknown.empty()) return app.exit(error);
    const std::string what =
        unknown.empty() ? error.what() : "there is no \"" + unknown.front() + "\"";
    std::fprintf(stderr, "prima: %s\nFor what it takes: %s --help\n", what.c_str(),
                 command_line(app).c_str());
    return prima::cli::kUsageError;
  }
  if (app.get_subcommands().empty()) {
    std::fputs(app.help().c_str(), stdout);
    return prima::cli::kUsageError;
  }
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const int status = run(argc, argv);
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return status;
    std::fprintf(stderr, "prima: standard output cannot be written\n");
    return status == prima::cli::kSuccess ? prima::cli::kFailure : status;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "prima: internal error: %s\n", error.what());
    return prima::cli::kFailure;
  }
}

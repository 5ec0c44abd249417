#include "cli/bench_command.h"

#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>

#include "base/clock.h"
#include "cli/atomic_file.h"
#include "cli/bench_load.h"
#include "cli/exit_code.h"
#include "cli/interrupt.h"
#include "server/api_client.h"

namespace prima::cli {

namespace {

constexpr const char* kBenchFooter =
    "Each user asks one question after another over a connection of their own, with prompts that\n"
    "share nothing, and reads the streamed answer. TTFT is the time to the first token as the "
    "user\n"
    "sees it, waiting included; TPOT the time between tokens after it.\n"
    "\n"
    "Examples:\n"
    "  prima bench --server http://127.0.0.1:8080 --users 8 --requests 4\n"
    "  prima bench --users 64 --requests 100 --tokens 8 --leave 0.33\n";

struct BenchOptions {
  BenchLoad load;
  std::uint32_t wait_seconds = 60;
  std::optional<std::filesystem::path> json;
};

Result<int> bench(const BenchOptions& options) {
  if (options.json) PRIMA_RETURN_IF_ERROR(check_writable(*options.json));
  const SystemClock clock;
  const InterruptGuard interrupt;
  const auto cancelled = [&] { return interrupt.interrupted(); };
  PRIMA_ASSIGN_OR_RETURN(auto client,
                         server::ApiClient::create(options.load.url, options.load.api_key, clock));
  PRIMA_RETURN_IF_ERROR(
      client.wait_until_ready(std::chrono::seconds(options.wait_seconds), cancelled));
  const BenchResult result = run_bench(options.load, clock, cancelled);
  std::fputs(describe(result).c_str(), stdout);
  if (options.json) {
    PRIMA_RETURN_IF_ERROR(
        write_atomically(*options.json, json_report(options.load, result).dump(2) + "\n"));
  }
  if (interrupt.interrupted()) return kInterrupted;
  for (const BenchUser& user : result.users) {
    if (!user.errors.empty()) return kFailure;
  }
  return kSuccess;
}

}  // namespace

void add_bench_command(CLI::App& app, int& exit_code) {
  CLI::App* command =
      app.add_subcommand("bench", "Load a server with users; latencies, throughput");
  command->footer(kBenchFooter);
  auto options = std::make_shared<BenchOptions>();
  BenchLoad& load = options->load;
  command->add_option("--server", load.url, "Where prima serve listens")->capture_default_str();
  command->add_option("--api-key", load.api_key, "The server's key");
  command->add_option("--users", load.users, "Users at once")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--requests", load.requests, "Questions of each user")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command->add_option("--prompt-words", load.prompt_words, "Words of each question")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  command->add_option("--tokens", load.tokens, "Tokens of each answer")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command->add_option("--leave", load.leaving, "Part of the requests whose user leaves midway")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--seed", load.seed, "For other questions")->capture_default_str();
  command->add_option("--wait", options->wait_seconds, "Seconds to wait for the server to be ready")
      ->capture_default_str();
  command->add_option("--json", options->json, "Also write the figures to this file")
      ->type_name("FILE");
  command->callback([options, &exit_code] {
    const auto result = bench(*options);
    exit_code = result ? *result : report(result.error());
  });
}

}  // namespace prima::cli

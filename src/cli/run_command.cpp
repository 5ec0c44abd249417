#include "cli/run_command.h"

#include <memory>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>

#include "base/clock.h"
#include "cli/atomic_file.h"
#include "cli/device_options.h"
#include "cli/exit_code.h"
#include "cli/interrupt.h"
#include "cli/run_answer.h"
#include "cli/run_chat.h"
#include "cli/run_options.h"
#include "cli/run_prompt.h"
#include "cli/run_report.h"
#include "generate/batcher.h"
#include "generate/engine.h"
#include "model/model_file.h"
#include "ring/ring.h"

namespace prima::cli {

namespace {

constexpr const char* kRunFooter =
    "Without a prompt, on a terminal: a chat. Models with a chat template answer; others, and all\n"
    "with --raw, continue the prompt's text. The answer goes to standard output, all else to\n"
    "standard error. Ctrl-C ends the answer, a second one the program.\n"
    "\n"
    "Examples:\n"
    "  prima run -m model.gguf -p \"Why is the sky blue?\" -n 200\n"
    "  prima run -m model.gguf -f question.txt --system \"Answer in one sentence.\"\n"
    "  prima run -m model.gguf --raw -p \"Once upon a time\" --temp 0\n"
    "  prima run -m model.gguf --json-schema person.json -p \"Invent a person.\"\n"
    "  prima run -m model.gguf --workers 2 --windows 4,4,14 -p \"Hello\"\n"
    "\n"
    "--json FILE: an object with text, tokens (ids), finish_reason, prompt_tokens, seed, load_ms,\n"
    "ttft_ms, tpot_ms, prefill_tokens_per_second, decode_tokens_per_second, drafted_tokens,\n"
    "accepted_tokens, devices, plan (which device runs which layers [first, last)), memory "
    "(bytes).\n"
    "What was not measured is null.\n";

Result<int> run(const RunOptions& options) {
  const SystemClock clock;
  const Instant started = clock.now();
  PRIMA_RETURN_IF_ERROR(check(options));
  PRIMA_ASSIGN_OR_RETURN(const auto prompt, read_prompt(options));
  const bool interactive = !prompt;
  if (options.json && interactive) {
    return fail(ErrorCode::invalid_argument, "--json reports one answer, a chat has many",
                "Give a prompt with -p, -f or on standard input");
  }
  if (options.json) PRIMA_RETURN_IF_ERROR(check_writable(*options.json));

  // All that can be wrong is found before the weights are loaded.
  PRIMA_ASSIGN_OR_RETURN(const auto model, model::ModelFile::open(options.model));
  const std::uint32_t n_ctx_train = model.hyperparameters().n_ctx_train;
  PRIMA_ASSIGN_OR_RETURN(const std::uint32_t n_ctx,
                         context_size(options.context, model.hyperparameters()));
  PRIMA_ASSIGN_OR_RETURN(const auto tokenizer, text::Tokenizer::load(model.paths().front()));
  PRIMA_ASSIGN_OR_RETURN(const auto chat_template,
                         choose_template(options, tokenizer, interactive));
  PRIMA_ASSIGN_OR_RETURN(const text::SamplerOptions sampler, sampler_options(options));
  PRIMA_RETURN_IF_ERROR(text::Sampler::create(tokenizer, sampler));
  std::vector<text::Token> tokens;
  if (prompt) {
    PRIMA_ASSIGN_OR_RETURN(
        tokens, single_prompt(tokenizer, chat_template ? &*chat_template : nullptr, options.system,
                              *prompt));
    PRIMA_RETURN_IF_ERROR(check_fits(tokens.size(), n_ctx, n_ctx_train));
  }

  InterruptGuard interrupt;
  const ring::RingOptions formation = ring_options(options.devices, n_ctx, model);
  Conversation conversation;
  while (true) {  // a chat may outlive its ring
    PRIMA_ASSIGN_OR_RETURN(const auto ring, form_ring_visibly(model, formation, interrupt));
    const Duration loading = clock.now() - started;
    generate::Engine engine(*ring, {.n_ctx = n_ctx, .max_tokens = ring->describe().max_tokens},
                            clock);
    PRIMA_ASSIGN_OR_RETURN(const auto drafter,
                           make_drafter(options.draft, tokenizer, formation.executor, clock));
    generate::Batcher batcher(
        engine, tokenizer,
        {.max_context = n_ctx, .decode_groups = generate::useful_decode_groups(ring->describe())},
        clock, drafter.get());
    const AnswerContext context{options, tokenizer, sampler, batcher, interrupt, clock};
    if (interactive) {
      PRIMA_ASSIGN_OR_RETURN(const ChatEnd end,
                             chat(context, *chat_template, *ring, n_ctx_train, conversation));
      if (end == ChatEnd::left) return kSuccess;
      continue;
    }

    PRIMA_ASSIGN_OR_RETURN(const generate::Answer answer, write_answer(context, std::move(tokens)));
    const ring::RingDescription description = ring->describe();
    print_figures(answer, description, n_ctx);
    if (options.json) {
      const RunReport report{model.name(), sampler.seed, n_ctx, loading};
      PRIMA_RETURN_IF_ERROR(
          write_atomically(*options.json, json_report(report, answer, description)));
    }
    return answer.finish == generate::FinishReason::cancelled ? kInterrupted : kSuccess;
  }
}

}  // namespace

void add_run_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("run", "Answer a prompt, or chat");
  command->footer(kRunFooter);
  auto options = std::make_shared<RunOptions>();
  add_run_options(*command, *options);
  command->callback([options, &exit_code] {
    const Result<int> result = run(*options);
    exit_code = result ? *result : report(result.error());
  });
}

}  // namespace prima::cli

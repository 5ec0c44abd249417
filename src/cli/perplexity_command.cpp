#include "cli/perplexity_command.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include <CLI/CLI.hpp>

#include "base/clock.h"
#include "cli/device_options.h"
#include "cli/exit_code.h"
#include "cli/text_file.h"
#include "generate/perplexity.h"

namespace prima::cli {

namespace {

constexpr const char* kPerplexityFooter =
    "The text is cut into chunks of the context's size; in each, every token of the second half "
    "is\n"
    "scored given those before it, as llama-perplexity does: the figures can be compared. Lower "
    "is\n"
    "better. The running figure goes to standard error, the last to standard output.\n"
    "\n"
    "Example:\n"
    "  prima model perplexity -m model.gguf -f wiki.test.raw\n";

constexpr std::uint32_t kDefaultChunk = 512;  // llama-perplexity's

struct PerplexityOptions {
  std::filesystem::path model;
  std::filesystem::path text;
  std::optional<std::int64_t> context;
  std::int64_t max_chunks = 0;
  DeviceOptions devices;
};

Result<int> run(const PerplexityOptions& options) {
  const SystemClock clock;
  PRIMA_RETURN_IF_ERROR(check(options.devices));
  PRIMA_ASSIGN_OR_RETURN(const auto model, model::ModelFile::open(options.model));
  PRIMA_ASSIGN_OR_RETURN(const std::uint32_t n_ctx,
                         context_size(options.context.value_or(std::min(
                                          kDefaultChunk, model.hyperparameters().n_ctx_train)),
                                      model.hyperparameters()));
  PRIMA_ASSIGN_OR_RETURN(const std::string text, read_text_file(options.text));
  PRIMA_ASSIGN_OR_RETURN(const auto tokenizer, text::Tokenizer::load(model.paths().front()));
  PRIMA_ASSIGN_OR_RETURN(
      auto tokens, tokenizer.tokenize(text, /*add_special=*/true, text::SpecialTokens::as_text));
  if (options.max_chunks < 0) {
    return fail(ErrorCode::invalid_argument,
                "--chunks " + std::to_string(options.max_chunks) + " cannot be",
                "Give 1 or more, or 0 for the whole text");
  }
  const auto most = static_cast<std::size_t>(options.max_chunks) * n_ctx;
  if (most > 0 && tokens.size() > most) tokens.resize(most);
  PRIMA_RETURN_IF_ERROR(generate::check_perplexity(tokens.size(), n_ctx));

  InterruptGuard interrupt;
  const ring::RingOptions formation = ring_options(options.devices, n_ctx, model);
  PRIMA_ASSIGN_OR_RETURN(const auto ring, form_ring_visibly(model, formation, interrupt));
  generate::Engine engine(*ring, {.n_ctx = n_ctx, .max_tokens = ring->describe().max_tokens},
                          clock);
  const auto show = [](const generate::Perplexity& so_far) {
    std::fprintf(stderr, "[%zu]%.4f,", so_far.n_chunks, so_far.value());
    std::fflush(stderr);
  };
  const auto result = generate::measure_perplexity(engine, tokenizer, tokens, n_ctx, show,
                                                   [&] { return interrupt.interrupted(); });
  std::fputc('\n', stderr);
  if (!result) return tl::unexpected(result.error());
  std::printf("Perplexity: %.4f +/- %.5f (%zu chunks of %u tokens)\n", result->value(),
              result->standard_error(), result->n_chunks, n_ctx);
  return kSuccess;
}

}  // namespace

void add_perplexity_command(CLI::App& app, int& exit_code) {
  CLI::App* command =
      app.get_subcommand("model")->add_subcommand("perplexity", "How well a model predicts a text");
  command->footer(kPerplexityFooter);
  auto options = std::make_shared<PerplexityOptions>();
  command
      ->add_option("-m,--model", options->model, "The model: a GGUF file, or the first of a split")
      ->required()
      ->type_name("FILE");
  command->add_option("-f,--file", options->text, "The text")->required()->type_name("FILE");
  command->add_option("-c,--ctx-size", options->context, "Tokens of a chunk")
      ->default_str("512, or what the model was trained for");
  command->add_option("--chunks", options->max_chunks, "Chunks at most; 0: the whole text")
      ->capture_default_str();
  add_device_options(*command, options->devices);
  command->callback([options, &exit_code] {
    const Result<int> result = run(*options);
    exit_code = result ? *result : report(result.error());
  });
}

}  // namespace prima::cli

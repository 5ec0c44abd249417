#include "cli/model_command.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <spdlog/fmt/fmt.h>

#include "base/clock.h"
#include "base/units.h"
#include "cli/exit_code.h"
#include "cli/interrupt.h"
#include "cli/model_report.h"
#include "cli/processor_options.h"
#include "cli/progress_line.h"
#include "model/mixture.h"
#include "model/model_file.h"
#include "model/synth.h"
#include "weights/layer_store.h"
#include "weights/weight_layout.h"

namespace prima::cli {
namespace {

struct InspectFlags {
  std::string file;
  bool json = false;
};

int inspect(const InspectFlags& flags) {
  const auto file = model::ModelFile::open(flags.file);
  if (!file) return report(file.error());
  std::fputs((flags.json ? model_json(*file) : model_table(*file)).c_str(), stdout);
  return kSuccess;
}

// Shows how much is written, a few times a second, and ends the writing at Ctrl-C.
class Progress {
 public:
  bool operator()(Bytes written, Bytes total) {
    constexpr auto kInterval = std::chrono::milliseconds(200);
    const Instant now = clock_.now();
    if (now - shown_ >= kInterval) {
      shown_ = now;
      const double percent = 100.0 * static_cast<double>(written) / static_cast<double>(total);
      line_.show(
          fmt::format("{} of {} ({:.0f} %)", format_bytes(written), format_bytes(total), percent));
    }
    return !interrupt_.interrupted();
  }

 private:
  InterruptGuard interrupt_;
  ProgressLine line_;
  SystemClock clock_;
  Instant shown_;
};

struct SynthFlags {
  model::SynthOptions options;
  std::string extend;
  std::string output;
};

Result<model::SynthResult> write_model(const SynthFlags& flags) {
  Progress progress;
  const auto show = [&progress](Bytes written, Bytes total) { return progress(written, total); };
  if (flags.extend.empty()) return model::synthesize(flags.options, flags.output, show);
  return model::extend_model(flags.extend, flags.options.n_layer, flags.options.seed, flags.output,
                             show);
}

int synth(const SynthFlags& flags) {
  const SystemClock clock;
  const Instant start = clock.now();
  const auto result = write_model(flags);
  if (!result) return report(result.error());
  const double took = seconds(clock.now() - start);
  fmt::print("{}: {}, {} tensors, written in {:.1f} s ({})\n", flags.output,
             format_bytes(result->file_size), result->n_tensors, took,
             format_bytes_per_second(static_cast<double>(result->file_size) / took));
  return kSuccess;
}

struct StoreFlags {
  std::string file;
  std::vector<std::string> layers;
  ProcessorOptions processor;
  bool remove = false;
};

std::optional<std::uint32_t> number(std::string_view text) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// What `--layers` says, items such as "12", "0-7" and "output"; all of the model without it.
Result<weights::WeightRequest> weights_to_store(const std::vector<std::string>& items,
                                                std::uint32_t n_layer) {
  weights::WeightRequest request{.layers = {}, .embedding = true, .output = items.empty()};
  std::set<int> layers;
  for (const std::string& item : items) {
    if (item == "output") {
      request.output = true;
      continue;
    }
    const std::size_t dash = std::min(item.find('-'), item.size());
    const auto first = number(std::string_view(item).substr(0, dash));
    const auto last = dash == item.size() ? first : number(std::string_view(item).substr(dash + 1));
    if (!first || !last || *first > *last || *last >= n_layer) {
      return fail(ErrorCode::invalid_argument, "--layers: the model has no layers " + item,
                  fmt::format("Name some of 0 to {}, and \"output\" for the output layer, as in "
                              "\"0-3,8,output\"",
                              n_layer - 1));
    }
    for (std::uint32_t layer = *first; layer <= *last; ++layer) {
      layers.insert(static_cast<int>(layer));
    }
  }
  for (int layer = 0; items.empty() && layer < static_cast<int>(n_layer); ++layer) {
    layers.insert(layer);
  }
  request.layers.assign(layers.begin(), layers.end());
  return request;
}

Result<int> store(const StoreFlags& flags) {
  PRIMA_ASSIGN_OR_RETURN(const auto model, model::ModelFile::open(flags.file));
  PRIMA_ASSIGN_OR_RETURN(auto options, store_options(flags.processor));
  if (options.root.empty()) {
    return fail(ErrorCode::not_found, "there is no folder for copies of weights",
                "Set HOME or XDG_CACHE_HOME");
  }
  options.model_identity = weights::file_identity(model);
  PRIMA_ASSIGN_OR_RETURN(auto layer_store, weights::LayerStore::open(options));
  if (flags.remove) {
    std::filesystem::remove_all(layer_store.folder());
    fmt::print("{} removed\n", layer_store.folder().string());
    return kSuccess;
  }
  PRIMA_ASSIGN_OR_RETURN(const weights::WeightRequest request,
                         weights_to_store(flags.layers, model.hyperparameters().n_layer));
  Progress progress;
  PRIMA_RETURN_IF_ERROR(
      layer_store.write(weights::gguf_layout(model, request),
                        [&](Bytes done, Bytes total) { return progress(done, total); }));
  fmt::print("{} {}\n", layer_store.folder().string(),
             flags.layers.empty() ? "is complete" : "has these layers");
  return kSuccess;
}

void add_store(CLI::App& model, int& exit_code) {
  auto flags = std::make_shared<StoreFlags>();
  CLI::App* command = model.add_subcommand(
      "store", "Copy a model's weights, laid out as this processor computes fastest, to its disk");
  command->add_option("file", flags->file, "A .gguf file; of a split model, its first part")
      ->required();
  auto* layers =
      command->add_option("--layers", flags->layers,
                          "Only these, as in \"0-7,12,output\": what this device is to hold");
  layers->delimiter(',')->type_name("LIST");
  command->add_option("--store-size", flags->processor.store_size,
                      "What the copies of all models may take (while 4 GiB of the disk stay free)");
  command->add_flag("--remove", flags->remove, "Remove this model's copy instead")
      ->excludes(layers);
  command->callback([flags, &exit_code] {
    const Result<int> result = store(*flags);
    exit_code = result ? *result : report(result.error());
  });
}

void add_inspect(CLI::App& model, int& exit_code) {
  auto flags = std::make_shared<InspectFlags>();
  CLI::App* command = model.add_subcommand("inspect", "Show what a model file holds");
  command->add_option("file", flags->file, "A .gguf file; of a split model, its first part")
      ->required();
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback([flags, &exit_code] { exit_code = inspect(*flags); });
}

void add_shape_options(CLI::App& command, model::SynthOptions& options) {
  command
      .add_option("--arch", options.architecture, "llama, qwen2, qwen3, qwen3moe, gemma3 or phi3")
      ->capture_default_str();
  command.add_option("--layers", options.n_layer, "Layers; with --extend, of the result")
      ->capture_default_str();
  command.add_option("--embd", options.n_embd, "Embedding length")->capture_default_str();
  command.add_option("--ff", options.n_ff, "Feed-forward length (default: 2.75 times --embd)");
  command.add_option("--heads", options.n_head, "Attention heads")->capture_default_str();
  command.add_option("--kv-heads", options.n_head_kv,
                     "Heads of keys and values (default: --heads)");
  command.add_option("--head-dim", options.head_dim,
                     "Elements of a head (default: --embd / --heads)");
  command.add_option("--vocab", options.n_vocab, "Tokens in the vocabulary")->capture_default_str();
  command.add_option("--context", options.n_ctx, "Context length")->capture_default_str();
  command.add_option("--experts", options.n_expert, "Experts of each layer (llama, qwen3moe)");
  command.add_option("--experts-used", options.n_expert_used,
                     "Experts each token uses (default: 2)");
  command.add_option("--ff-expert", options.n_ff_expert,
                     "Feed-forward length of an expert (default: --ff)");
  command.add_option("--swa", options.n_swa, "Sliding window in tokens (gemma3)");
  command.add_flag("--tied", options.tied, "The embedding serves as output layer too");
  command.add_flag("--biases", options.biases, "Give every projection that may have one a bias");
}

void add_rope_options(CLI::App& command, model::SynthOptions& options) {
  const std::map<std::string, model::SynthRopeScaling> scalings{
      {"none", model::SynthRopeScaling::none},
      {"linear", model::SynthRopeScaling::linear},
      {"yarn", model::SynthRopeScaling::yarn},
      {"llama3", model::SynthRopeScaling::llama3},
      {"longrope", model::SynthRopeScaling::longrope}};
  command.add_option("--rope-dims", options.n_rot,
                     "Elements of a head that rotate (default: all; gemma3, phi3)");
  command.add_option("--rope-base", options.rope_base, "Rope's base frequency")
      ->capture_default_str();
  command
      .add_option("--rope-scaling", options.rope_scaling, "none, linear, yarn, llama3 or longrope")
      ->transform(CLI::CheckedTransformer(scalings).description(""))
      ->type_name("NAME")
      ->default_str("none");
  command.add_option("--rope-factor", options.rope_factor, "By how much the context was stretched");
  command.add_option("--rope-original-context", options.rope_n_ctx_original,
                     "Context before that (default: --context / --rope-factor)");
}

void add_synth(CLI::App& model, int& exit_code) {
  auto flags = std::make_shared<SynthFlags>();
  model::SynthOptions& options = flags->options;
  CLI::App* command = model.add_subcommand(
      "synth", "Write a model of random weights, of any shape, that loads and runs");
  add_shape_options(*command, options);
  add_rope_options(*command, options);
  command
      ->add_option(
          "--type", options.mixture,
          fmt::format("Types of the weights: a mixture ({}) or a single type, such as Q4_K",
                      fmt::join(model::mixture_names(), ", ")))
      ->capture_default_str();
  command->add_flag("--pure", options.pure,
                    "Take --type as a single type for all matrices, also where a mixture has its "
                    "name");
  command->add_option("--seed", options.seed, "The same seed gives the same file")
      ->capture_default_str();
  auto* extend =
      command
          ->add_option("--extend", flags->extend,
                       "Add layers that change nothing to this model, until it has --layers")
          ->check(CLI::ExistingFile);
  // All else is the extended model's.
  for (CLI::Option* option : command->get_options()) {
    const std::string name = option->get_name();
    const bool serves_both = name == "--help" || name == "--layers" || name == "--seed";
    if (serves_both || name == "--output" || option == extend) continue;
    extend->excludes(option);
  }
  command->add_option("-o,--output", flags->output, "The file to write")->required();
  command->callback([flags, &exit_code] { exit_code = synth(*flags); });
}

}  // namespace

void add_model_command(CLI::App& app, int& exit_code) {
  CLI::App* model = app.add_subcommand("model", "Look at model files, make synthetic ones");
  model->require_subcommand(1);
  add_inspect(*model, exit_code);
  add_synth(*model, exit_code);
  add_store(*model, exit_code);
}

}  // namespace prima::cli

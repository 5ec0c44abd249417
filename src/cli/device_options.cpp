#include "cli/device_options.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <CLI/CLI.hpp>

#include "base/units.h"
#include "cli/device_profile.h"
#include "cli/planning.h"
#include "cli/progress_line.h"

namespace prima::cli {

namespace {

// What most conversations need; a model's whole context may take many gigabytes.
constexpr std::uint32_t kDefaultContext = 4096;

// Tokens of a prompt that are computed at once: enough for the kernels to work at full speed.
constexpr std::uint32_t kStepTokens = 512;

// Beyond these a number is a slip of the keyboard.
constexpr std::int64_t kMaxWorkers = 64;
constexpr std::int64_t kMaxRounds = 64;

Status bad(std::string what, std::string remedy) {
  return fail(ErrorCode::invalid_argument, std::move(what), std::move(remedy));
}

// Who runs what is said, not planned.
bool is_by_hand(const DeviceOptions& options) {
  return !options.windows.empty() || options.rounds || options.private_layers > 0;
}

std::uint32_t worker_count(const DeviceOptions& options) {
  if (options.workers) return static_cast<std::uint32_t>(*options.workers);
  return options.windows.empty() ? 0 : static_cast<std::uint32_t>(options.windows.size() - 1);
}

}  // namespace

void add_joining_options(CLI::App& command, DeviceOptions& options) {
  add_processor_options(command, options.processor);
  auto* kv = command.add_option("--kv-type", options.kv_type,
                                "Keys and values are kept as f16 or, in half the memory, q8_0");
  auto* workers = command.add_option("--workers", options.workers,
                                     "Wait for this many devices that run \"prima join\" (those "
                                     "that are there); 0: this device alone");
  auto* port = command.add_option("--port", options.port,
                                  "Where workers join, for those told with --head (any free one)");
  port->check(CLI::Range(1, 65535));
  kv->capture_default_str();
  for (auto* option : {kv, workers, port}) option->group("Devices");
}

void add_device_options(CLI::App& command, DeviceOptions& options) {
  add_joining_options(command, options);
  auto* windows = command.add_option("--windows", options.windows,
                                     "Layers of each device in a round, this one first, such as "
                                     "4,4,14; 0 leaves a device out. If they are all the model's "
                                     "layers, they are dealt over the rounds (what the planner "
                                     "chooses)");
  windows->delimiter(',');
  auto* rounds = command.add_option("--rounds", options.rounds,
                                    "Rounds a token makes; the windows repeat in each, or an even "
                                    "split does (what the planner chooses)");
  auto* step_tokens =
      command.add_option("--step-tokens", options.step_tokens,
                         "Tokens of a prompt that are computed at once, at most; fewer leave more "
                         "memory to weights (what suits the memory)");
  auto* plan = command.add_option("--plan", options.plan_file,
                                  "Run this plan, as prima plan --json wrote it");
  auto* private_layers =
      command.add_option("--private-layers", options.private_layers,
                         "The first and last so many layers stay on this device, and with them the "
                         "hidden states that say most about the text");
  private_layers->check(CLI::Range(0, 1024));
  auto* link_type = command.add_option("--link-type", options.link_type,
                                       "Hidden states travel as f32, f16 or q8_0");
  link_type->check(CLI::IsMember({"f32", "f16", "q8_0"}));
  auto* key_file =
      command.add_option("--key-file", options.key_file, "Cluster key, if not the user's own");
  key_file->type_name("FILE");
  for (auto* option : {private_layers, link_type}) {
    option->capture_default_str();
  }
  for (auto* option : {windows, rounds, step_tokens, plan, private_layers, link_type, key_file}) {
    option->group("Devices");
  }
}

ggml_type kv_type_of(const DeviceOptions& options) {
  return options.kv_type == "q8_0" ? GGML_TYPE_Q8_0 : GGML_TYPE_F16;
}

Status check(const DeviceOptions& options) {
  compute::ExecutorOptions executor;
  PRIMA_RETURN_IF_ERROR(apply(options.processor, executor));
  if (options.kv_type != "f16" && options.kv_type != "q8_0") {
    return bad("--kv-type " + options.kv_type + " is not known", "Give f16 or q8_0");
  }
  if (options.workers && (*options.workers < 0 || *options.workers > kMaxWorkers)) {
    return bad("--workers " + std::to_string(*options.workers) + " cannot be",
               "Give 0 to " + std::to_string(kMaxWorkers));
  }
  if (options.plan_file && is_by_hand(options)) {
    return bad("--plan says who runs what, and so do --windows, --rounds and --private-layers",
               "Give one or the other");
  }
  if (options.rounds && (*options.rounds < 1 || *options.rounds > kMaxRounds)) {
    return bad("--rounds " + std::to_string(*options.rounds) + " cannot be",
               "Give 1 to " + std::to_string(kMaxRounds));
  }
  if (options.step_tokens && (*options.step_tokens < 1 || *options.step_tokens > kStepTokens)) {
    return bad("--step-tokens " + std::to_string(*options.step_tokens) + " cannot be",
               "Give 1 to " + std::to_string(kStepTokens));
  }
  for (const std::int64_t window : options.windows) {
    if (window < 0 || window > std::numeric_limits<std::int32_t>::max()) {
      return bad("--windows: " + std::to_string(window) + " is no number of layers",
                 "Give 0 or more for each device");
    }
  }
  if (options.workers && !options.windows.empty() &&
      options.windows.size() != static_cast<std::size_t>(*options.workers) + 1) {
    return bad("--windows names " + std::to_string(options.windows.size()) +
                   " devices, but there are " + std::to_string(*options.workers + 1),
               "Give one number for this device and one for each worker");
  }
  return {};
}

Result<std::uint32_t> context_size(std::optional<std::int64_t> asked,
                                   const model::Hyperparameters& model) {
  if (!asked) return std::min(kDefaultContext, model.n_ctx_train);
  if (*asked < 1) {
    return fail(ErrorCode::invalid_argument, "-c " + std::to_string(*asked) + " is no context",
                "Give the number of tokens of prompt and answer together");
  }
  if (*asked > model.n_ctx_train) {
    return fail(ErrorCode::invalid_argument,
                "-c " + std::to_string(*asked) + " is more than the " +
                    std::to_string(model.n_ctx_train) + " tokens this model was trained for",
                "Give at most " + std::to_string(model.n_ctx_train));
  }
  return static_cast<std::uint32_t>(*asked);
}

std::uint32_t step_tokens(const DeviceOptions& options, const compute::ExecutorOptions& executor,
                          std::uint32_t n_ctx, const model::Hyperparameters& model) {
  const std::uint32_t most =
      std::min(static_cast<std::uint32_t>(options.step_tokens.value_or(kStepTokens)), n_ctx);
  if (options.step_tokens) return most;
  return executor.memory ? compute::step_tokens_within(*executor.memory, model, most) : most;
}

ring::RingOptions ring_options(const DeviceOptions& options, std::uint32_t n_ctx,
                               const model::ModelFile& model) {
  ring::RingOptions ring;
  ring.n_workers = worker_count(options);
  ring.windows.assign(options.windows.begin(), options.windows.end());
  ring.rounds = static_cast<std::uint32_t>(options.rounds.value_or(1));
  if (!is_by_hand(options)) {
    ring.make_planning = make_planner(options, n_ctx);
    if (options.workers == 0) ring.gather_time = {};
  }
  ring.private_layers = options.private_layers;
  ring.link_type = options.link_type == "f16"    ? GGML_TYPE_F16
                   : options.link_type == "q8_0" ? GGML_TYPE_Q8_0
                                                 : GGML_TYPE_F32;
  ring.port = options.port;
  ring.key_file = options.key_file;
  ring.executor.n_ctx = n_ctx;
  ring.executor.kv_type = kv_type_of(options);
  static_cast<void>(apply(options.processor, ring.executor));  // check() has seen it succeed
  ring.executor.max_tokens = step_tokens(options, ring.executor, n_ctx, model.hyperparameters());
  ring.make_observer = [&model, executor = ring.executor] {
    return learn_from_generation(model, {.executor = executor});
  };
  return ring;
}

std::string describe(const ring::FormationProgress& progress) {
  using Stage = ring::FormationProgress::Stage;
  switch (progress.stage) {
    case Stage::waiting_for_workers: {
      std::string text =
          "Waiting for workers (prima join): " + std::to_string(progress.workers_joined);
      if (progress.workers_wanted > 0) text += " of " + std::to_string(progress.workers_wanted);
      const char* separator = ": ";
      for (const ring::DeviceDescription& device : progress.devices) {
        if (device.address.empty()) continue;  // this device
        text += std::exchange(separator, ", ") + device.name;
      }
      return text;
    }
    case Stage::profiling: return "The devices measure themselves, once";
    case Stage::measuring_links: return "Measuring the links, once";
    case Stage::loading:
      return "Loading " + format_bytes(progress.loaded) + " of " + format_bytes(progress.to_load);
    case Stage::linking: return "Linking the devices";
  }
  return "";
}

Result<std::unique_ptr<ring::Ring>> form_ring_visibly(const model::ModelFile& model,
                                                      ring::RingOptions options,
                                                      const InterruptGuard& interrupt) {
  ProgressLine line;
  options.progress = [&](const ring::FormationProgress& progress) {
    line.show(describe(progress));
    return !interrupt.interrupted();
  };
  return ring::form_ring(model, options);
}

}  // namespace prima::cli

#include "cli/processor_options.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>

#include <CLI/CLI.hpp>

#include "base/units.h"
#include "weights/budget.h"

namespace prima::cli {
namespace {

constexpr std::int64_t kMaxThreads = 512;  // ggml.h's GGML_MAX_N_THREADS
// Beyond this a number is a slip of the keyboard.
constexpr std::uint32_t kMaxGpuLayers = 1 << 16;

Result<Bytes> size_of(const char* flag, const std::string& text) {
  auto bytes = parse_bytes(text);
  if (!bytes) {
    return fail(ErrorCode::invalid_argument, std::string(flag) + ": " + bytes.error().what,
                bytes.error().remedy);
  }
  return bytes;
}

// ExecutorOptions::offload_from_tokens.
Result<std::optional<std::uint32_t>> offload_from_tokens(const std::string& text) {
  if (text == "auto") return 0;
  if (text == "off") return std::nullopt;
  std::uint32_t tokens = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), tokens);
  if (error == std::errc() && end == text.data() + text.size() && tokens > 0) return tokens;
  return fail(ErrorCode::invalid_argument, "--gpu-prompts: '" + text + "' is no number of tokens",
              "Give one of 1 and more, auto or off");
}

void add_store_options(CLI::App& command, ProcessorOptions& options) {
  auto* no_store = command.add_flag(
      "--no-store", options.no_store,
      "No copy of the weights on this device's disk, laid out as its processor computes fastest");
  auto* store_size = command.add_option(
      "--store-size", options.store_size,
      "What the copies of all models may take (while 4 GiB of the disk stay free)");
  for (auto* option : {no_store, store_size}) option->group("This device");
}

}  // namespace

void add_processor_options(CLI::App& command, ProcessorOptions& options) {
  auto* threads =
      command.add_option("--threads", options.threads, "Threads; 0: one per physical core");
  threads->capture_default_str();
  auto* memory = command.add_option(
      "--memory", options.memory,
      "Memory that this device may use, such as 3G; what does not fit is read from disk for every "
      "token, ahead of its use (what is available, less a reserve for other programs)");
  auto* gpu_layers = command.add_option(
      "--gpu-layers", options.gpu_layers,
      "So many of this device's layers go to its GPUs, the last ones; one more than it has: the "
      "output layer too");
  gpu_layers->check(CLI::Range(0u, kMaxGpuLayers));
  auto* gpu_memory = command.add_option("--gpu-memory", options.gpu_memory,
                                        "Memory of each GPU that may be used (what is free)");
  auto* gpu_prompts = command.add_option(
      "--gpu-prompts", options.gpu_prompts,
      "Prompts are computed on a GPU also where layers are not in its memory, by copying these "
      "over for steps of so many tokens and more; auto: from where that is faster, measured; off");
  gpu_prompts->capture_default_str();
  for (auto* option : {threads, memory, gpu_layers, gpu_memory, gpu_prompts}) {
    option->group("This device");
  }
  add_store_options(command, options);
}

std::optional<std::filesystem::path> layer_store_folder() {
  const auto folder_in = [](const char* variable) -> std::optional<std::filesystem::path> {
    const char* value = std::getenv(variable);
    if (value == nullptr || *value == '\0') return std::nullopt;
    return std::filesystem::path(value);
  };
  if (const auto cache = folder_in("XDG_CACHE_HOME")) return *cache / "prima/layers";
  if (const auto home = folder_in("HOME")) return *home / ".cache/prima/layers";
  return std::nullopt;
}

Result<weights::LayerStoreOptions> store_options(const ProcessorOptions& options) {
  constexpr std::uintmax_t kPartKeptFree = 20;
  constexpr std::uintmax_t kMostKeptFree = 4 * kGiB;
  weights::LayerStoreOptions store;
  if (!options.store_size.empty()) {
    PRIMA_ASSIGN_OR_RETURN(store.quota, size_of("--store-size", options.store_size));
  }
  const auto folder = layer_store_folder();
  if (options.no_store || !folder) return store;
  store.root = *folder;
  std::error_code error;
  const auto space = std::filesystem::space("/", error);
  if (!error) store.keep_free = std::min(space.capacity / kPartKeptFree, kMostKeptFree);
  return store;
}

Status apply(const ProcessorOptions& options, compute::ExecutorOptions& executor) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return fail(ErrorCode::invalid_argument,
                "--threads " + std::to_string(options.threads) + " cannot be",
                "Give 1 to " + std::to_string(kMaxThreads) + ", or 0 for one per physical core");
  }
  executor.n_threads = static_cast<int>(options.threads);
  std::optional<Bytes> memory;
  if (!options.memory.empty()) {
    PRIMA_ASSIGN_OR_RETURN(memory, size_of("--memory", options.memory));
  }
  // Where the system does not say what is available, all is held in memory.
  if (const auto budget = weights::measure_budget(memory)) executor.memory = *budget;
  PRIMA_ASSIGN_OR_RETURN(executor.store, store_options(options));
  executor.gpu.n_layers = options.gpu_layers;
  if (!options.gpu_memory.empty()) {
    PRIMA_ASSIGN_OR_RETURN(executor.gpu.memory_limit, size_of("--gpu-memory", options.gpu_memory));
  }
  PRIMA_ASSIGN_OR_RETURN(executor.offload_from_tokens, offload_from_tokens(options.gpu_prompts));
  return {};
}

}  // namespace prima::cli

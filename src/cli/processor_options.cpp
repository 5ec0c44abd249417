#include "cli/processor_options.h"

#include <CLI/CLI.hpp>

#include "base/units.h"

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

}  // namespace

void add_processor_options(CLI::App& command, ProcessorOptions& options) {
  auto* threads =
      command.add_option("--threads", options.threads, "Threads; 0: one per physical core");
  threads->capture_default_str();
  auto* memory = command.add_option(
      "--memory", options.memory,
      "Memory that this device may use, such as 3G; what does not fit is read from disk for every "
      "token, ahead of its use (all that its layers need)");
  auto* gpu_layers = command.add_option(
      "--gpu-layers", options.gpu_layers,
      "So many of this device's layers go to its GPUs, the last ones; one more than it has: the "
      "output layer too");
  gpu_layers->check(CLI::Range(0u, kMaxGpuLayers));
  auto* gpu_memory = command.add_option("--gpu-memory", options.gpu_memory,
                                        "Memory of each GPU that may be used (what is free)");
  for (auto* option : {threads, memory, gpu_layers, gpu_memory}) option->group("This device");
}

Status apply(const ProcessorOptions& options, compute::ExecutorOptions& executor) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return fail(ErrorCode::invalid_argument,
                "--threads " + std::to_string(options.threads) + " cannot be",
                "Give 1 to " + std::to_string(kMaxThreads) + ", or 0 for one per physical core");
  }
  executor.n_threads = static_cast<int>(options.threads);
  if (!options.memory.empty()) {
    PRIMA_ASSIGN_OR_RETURN(executor.memory, size_of("--memory", options.memory));
  }
  executor.gpu.n_layers = options.gpu_layers;
  if (!options.gpu_memory.empty()) {
    PRIMA_ASSIGN_OR_RETURN(executor.gpu.memory_limit, size_of("--gpu-memory", options.gpu_memory));
  }
  return {};
}

}  // namespace prima::cli

// What of this device a command may use: threads, memory, GPUs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"
#include "compute/executor.h"
#include "weights/layer_store.h"

namespace CLI {
class App;
}

namespace prima::cli {

struct ProcessorOptions {
  std::int64_t threads = 0;  // 0: one per physical core
  bool no_store = false;
  std::string store_size;  // a size; empty: as long as the disk keeps some space
  std::string memory;      // a size; empty: what is available, less a reserve
  std::uint32_t gpu_layers = 0;
  std::string gpu_memory;  // of each GPU, a size; empty: what is free
  std::string gpu_prompts = "auto";
};

void add_processor_options(CLI::App& command, ProcessorOptions& options);

// Where the compute-ready copies of weights lie: ~/.cache/prima/layers, or in XDG_CACHE_HOME.
// nullopt for a user without a home.
std::optional<std::filesystem::path> layer_store_folder();

// The store to use. Fails with invalid_argument, naming the flag.
Result<weights::LayerStoreOptions> store_options(const ProcessorOptions& options);

// Measures the memory that is available now. Fails with invalid_argument, naming the flag.
Status apply(const ProcessorOptions& options, compute::ExecutorOptions& executor);

}  // namespace prima::cli

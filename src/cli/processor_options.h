// What of this device a command may use: threads, memory, GPUs.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "compute/executor.h"

namespace CLI {
class App;
}

namespace prima::cli {

struct ProcessorOptions {
  std::int64_t threads = 0;  // 0: one per physical core
  std::string memory;        // a size; empty: as much as the layers need
  std::uint32_t gpu_layers = 0;
  std::string gpu_memory;  // of each GPU, a size; empty: what is free
};

void add_processor_options(CLI::App& command, ProcessorOptions& options);

// Fails with invalid_argument, naming the flag.
Status apply(const ProcessorOptions& options, compute::ExecutorOptions& executor);

}  // namespace prima::cli

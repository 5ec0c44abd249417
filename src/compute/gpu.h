// The GPUs that this build can compute on, and which layers go to them.
//
// ggml's device registry says what there is: CUDA, Metal, Vulkan, whatever ggml was built with.
//
// Thread-safe, except add_remote_gpus().
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "compute/executor.h"
#include "model/model_file.h"

namespace prima::compute {

struct GpuInfo {
  std::string name;           // "CUDA0": what GpuPlacement::device takes
  std::string description{};  // "NVIDIA GeForce RTX 3070"
  Bytes memory_total = 0;
  Bytes memory_free = 0;
  bool unified_memory = false;  // shared with the CPU
};

std::vector<GpuInfo> list_gpus();

// Devices of a ggml RPC server, to be used like GPUs. A stand-in for tests: memory of its own, real
// copies, no GPU. Fails with unavailable.
Status add_remote_gpus(const std::string& endpoint);

// Hidden states and the widest feed-forward activations (gate, up and their product) of a token.
Bytes gpu_activation_bytes(const model::Hyperparameters& hp);

// Attention's mask, for each token of a step and each KV cell, as computed and as it came.
inline constexpr Bytes kGpuMaskBytes = 2 * sizeof(std::uint16_t);

// A backend's own.
inline constexpr Bytes kGpuScratchBytes = 64 * kMiB;

// What a GPU's compute buffers take besides layers: all three.
Bytes gpu_compute_buffer_bytes(const model::Hyperparameters& hp, const ExecutorOptions& executor);

// Which of the windows' layers, the last ones, go to which GPU: GPUs are filled in the order given,
// each with whole layers, their KV cache and room for compute buffers. Fails with
// resource_exhausted, saying how many layers would fit, and with not_found if there is no GPU.
Result<std::vector<GpuPlacement>> place_on_gpus(const model::ModelFile& model,
                                                const ExecutorOptions& executor,
                                                const GpuRequest& request,
                                                std::span<const GpuInfo> gpus);

}  // namespace prima::compute

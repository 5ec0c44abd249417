#include "compute/gpu.h"

#include <algorithm>
#include <string>

#include <ggml-backend.h>
#include <ggml-rpc.h>

#include "compute/kv_cache.h"

namespace prima::compute {
namespace {

bool is_gpu(ggml_backend_dev_t device) {
  const auto type = ggml_backend_dev_type(device);
  return type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU;
}

Bytes output_layer_bytes(const model::ModelFile& model) {
  const model::TensorInfo* output = model.find(model::TensorRole::output);
  if (output == nullptr) output = model.find(model::TensorRole::token_embedding);
  return output->bytes.size;
}

void add_layer(std::vector<LayerRange>& ranges, std::uint32_t layer) {
  if (!ranges.empty() && ranges.back().last == layer) {
    ++ranges.back().last;
  } else {
    ranges.push_back({layer, layer + 1});
  }
}

}  // namespace

std::vector<GpuInfo> list_gpus() {
  std::vector<GpuInfo> gpus;
  for (std::size_t i = 0; i < ggml_backend_dev_count(); ++i) {
    ggml_backend_dev_t device = ggml_backend_dev_get(i);
    if (!is_gpu(device)) continue;
    std::size_t free = 0;
    std::size_t total = 0;
    ggml_backend_dev_memory(device, &free, &total);
    gpus.push_back(
        {.name = ggml_backend_dev_name(device),
         .description = ggml_backend_dev_description(device),
         .memory_total = total,
         .memory_free = free,
         .unified_memory = ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_IGPU});
  }
  return gpus;
}

Status add_remote_gpus(const std::string& endpoint) {
  ggml_backend_reg_t server = ggml_backend_rpc_add_server(endpoint.c_str());
  if (server == nullptr) {
    return fail(ErrorCode::unavailable, "no ggml RPC server answers at " + endpoint);
  }
  ggml_backend_register(server);
  return {};
}

Bytes gpu_activation_bytes(const model::Hyperparameters& hp) {
  const Bytes widest =
      std::max<Bytes>(hp.n_ff, Bytes{hp.n_ff_expert} * std::max<Bytes>(1, hp.n_expert_used));
  return (6 * Bytes{hp.n_embd} + 3 * widest) * sizeof(float);
}

Bytes gpu_compute_buffer_bytes(const model::Hyperparameters& hp, const ExecutorOptions& executor) {
  return executor.max_tokens * (gpu_activation_bytes(hp) + executor.n_ctx * kGpuMaskBytes) +
         kGpuScratchBytes;
}

Result<std::vector<GpuPlacement>> place_on_gpus(const model::ModelFile& model,
                                                const ExecutorOptions& executor,
                                                const GpuRequest& request,
                                                std::span<const GpuInfo> gpus) {
  std::vector<GpuPlacement> placements;
  if (request.n_layers == 0) return placements;
  if (gpus.empty()) {
    return fail(ErrorCode::not_found, "this build finds no GPU",
                "Leave out --gpu-layers, or build with your GPU's backend (docs/building.md)");
  }
  std::vector<std::uint32_t> layers;
  for (const LayerRange& window : executor.windows) {
    for (std::uint32_t layer = window.first; layer < window.last; ++layer) layers.push_back(layer);
  }
  std::sort(layers.begin(), layers.end());
  const bool with_output = executor.is_head && request.n_layers > layers.size();
  const std::size_t n_wanted = std::min<std::size_t>(request.n_layers, layers.size());
  layers.erase(layers.begin(), layers.end() - static_cast<std::ptrdiff_t>(n_wanted));

  const model::Hyperparameters& hp = model.hyperparameters();
  const Bytes kv_bytes = kv_bytes_per_layer(hp, executor.kv_type, executor.n_ctx);
  std::size_t next = 0;
  bool output_placed = !with_output;
  for (const GpuInfo& gpu : gpus) {
    Bytes room = gpu.memory_free;
    if (request.memory_limit > 0) room = std::min(room, request.memory_limit);
    const Bytes buffers = gpu_compute_buffer_bytes(hp, executor);
    room = room > buffers ? room - buffers : 0;

    GpuPlacement placement{.device = gpu.name};
    for (; next < layers.size(); ++next) {
      const Bytes bytes = model.layer_bytes(static_cast<int>(layers[next])) + kv_bytes;
      if (bytes > room) break;
      room -= bytes;
      add_layer(placement.layers, layers[next]);
    }
    if (next == layers.size() && !output_placed && output_layer_bytes(model) <= room) {
      placement.output_layer = output_placed = true;
    }
    if (!placement.layers.empty() || placement.output_layer) placements.push_back(placement);
  }
  if (next < layers.size() || !output_placed) {
    return fail(
        ErrorCode::resource_exhausted,
        "the GPUs' memory holds " + std::to_string(next) + " of the " +
            std::to_string(request.n_layers) + " layers asked for",
        "Use --gpu-layers " + std::to_string(next) + ", a smaller context (-c) or a smaller model");
  }
  return placements;
}

}  // namespace prima::compute

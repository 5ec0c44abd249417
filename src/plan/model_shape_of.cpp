#include "plan/model_shape_of.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "compute/gpu.h"
#include "compute/prompt_offload.h"
#include "weights/weight_layout.h"

namespace prima::plan {
namespace {

using model::Hyperparameters;
using model::ModelFile;
using model::TensorInfo;
using model::TensorRole;

std::uint64_t elements(const TensorInfo& tensor) {
  std::uint64_t product = 1;
  for (const std::int64_t n : tensor.shape) product *= static_cast<std::uint64_t>(n);
  return product;
}

// As weights/streamed_weights.h makes them: tensors used together, each in whole blocks.
std::vector<Bytes> stages_of(const ModelFile& file, const weights::WeightRequest& request) {
  constexpr Bytes kBlock = 4 * kKiB;
  const weights::WeightLayout layout = weights::gguf_layout(file, request);
  std::vector<Bytes> stages;
  const weights::PlacedTensor* previous = nullptr;
  for (const weights::PlacedTensor& placed : layout.tensors) {
    if (!weights::is_staged(placed)) continue;
    const bool joins = previous != nullptr &&
                       weights::rank_of_use(previous->role) == weights::rank_of_use(placed.role);
    if (!joins) stages.push_back(0);
    stages.back() += align_up(placed.bytes.end(), kBlock) - align_down(placed.bytes.offset, kBlock);
    previous = &placed;
  }
  return stages;
}

bool is_expert(TensorRole role) {
  return role == TensorRole::experts_gate || role == TensorRole::experts_up ||
         role == TensorRole::experts_down;
}

LayerClass layer_of(const ModelFile& file, std::uint32_t index, double kv_bytes_per_element) {
  const Hyperparameters& model = file.hyperparameters();
  LayerClass layer;
  Bytes experts = 0;
  std::uint64_t expert_elements = 0;
  for (const TensorRole role : model::all_tensor_roles()) {
    if (!model::is_per_layer(role)) continue;
    const TensorInfo* tensor = file.find(role, static_cast<int>(index));
    if (tensor == nullptr) continue;
    if (is_expert(role)) {
      experts += tensor->bytes.size;
      expert_elements += elements(*tensor);
    } else {
      layer.dense_bytes += tensor->bytes.size;
      layer.active_parameters += elements(*tensor);
    }
  }
  if (experts > 0) {
    layer.n_expert = model.n_expert;
    layer.n_expert_used = model.n_expert_used;
    layer.expert_bytes = experts / model.n_expert;
    layer.active_parameters += expert_elements / model.n_expert * model.n_expert_used;
  }
  layer.kv_bytes_per_token =
      static_cast<Bytes>(std::ceil(2.0 * model.n_embd_kv() * kv_bytes_per_element));
  layer.window_tokens = model.has_sliding_window(index) ? model.n_swa : 0;
  layer.name = format_bytes(weight_bytes(layer));
  if (layer.window_tokens > 0) layer.name += ", window";
  return layer;
}

bool same(const LayerClass& a, const LayerClass& b) {
  return a.dense_bytes == b.dense_bytes && a.expert_bytes == b.expert_bytes &&
         a.n_expert == b.n_expert && a.kv_bytes_per_token == b.kv_bytes_per_token &&
         a.window_tokens == b.window_tokens;
}

}  // namespace

ModelShape shape_of(const ModelFile& file, double kv_bytes_per_element) {
  const Hyperparameters& model = file.hyperparameters();
  ModelShape shape;
  shape.name = file.name();
  shape.n_embd = model.n_embd;
  shape.n_ctx_train = model.n_ctx_train;
  for (std::uint32_t i = 0; i < model.n_layer; ++i) {
    LayerClass layer = layer_of(file, i, kv_bytes_per_element);
    const auto known = std::find_if(shape.classes.begin(), shape.classes.end(),
                                    [&](const LayerClass& other) { return same(layer, other); });
    shape.layers.push_back(static_cast<std::uint16_t>(known - shape.classes.begin()));
    if (known != shape.classes.end()) continue;
    layer.stages = stages_of(file, {.layers = {static_cast<int>(i)}});
    shape.classes.push_back(std::move(layer));
  }
  const TensorInfo* output = file.find(TensorRole::output);
  if (output == nullptr) output = file.find(TensorRole::token_embedding);  // tied
  if (output != nullptr) {
    shape.output_bytes = output->bytes.size;
    shape.output_parameters = elements(*output);
  }
  if (const TensorInfo* norm = file.find(TensorRole::output_norm)) {
    shape.output_bytes += norm->bytes.size;
  }
  shape.output_stages = stages_of(file, {.layers = {}, .output = true});
  const std::uint32_t n_ff = std::max(model.n_ff, model.n_ff_expert * model.n_expert_used);
  shape.buffer_bytes = default_buffer_bytes(model.n_embd, n_ff, model.n_vocab);
  shape.gpu_activation_bytes = compute::gpu_activation_bytes(model);
  shape.gpu_scratch_bytes = compute::kGpuScratchBytes;
  std::vector<int> layers(model.n_layer);
  std::iota(layers.begin(), layers.end(), 0);
  shape.gpu_matrix_bytes = compute::half_precision_bytes(file, layers);
  return shape;
}

}  // namespace prima::plan

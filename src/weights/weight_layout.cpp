#include "weights/weight_layout.h"

#include <algorithm>

namespace prima::weights {

using model::TensorRole;

namespace {

// Reading less than this as a stage of its own costs more time than it saves memory.
constexpr Bytes kSmallestStaged = 32 * kKiB;

}  // namespace

int rank_of_use(TensorRole role) {
  switch (role) {
    case TensorRole::attention_qkv:
    case TensorRole::attention_q:
    case TensorRole::attention_k:
    case TensorRole::attention_v: return 1;
    case TensorRole::attention_output: return 2;
    case TensorRole::router: return 3;
    case TensorRole::experts_gate:
    case TensorRole::ffn_gate: return 4;
    case TensorRole::experts_up:
    case TensorRole::ffn_up: return 5;
    case TensorRole::experts_down:
    case TensorRole::ffn_down: return 6;
    case TensorRole::output: return 7;
    default: return 0;  // small, always in memory
  }
}

bool is_staged(const PlacedTensor& tensor) {
  return rank_of_use(tensor.role) > 0 && tensor.bytes.size >= kSmallestStaged;
}

WeightLayout gguf_layout(const model::ModelFile& model, const WeightRequest& request) {
  WeightLayout layout;
  layout.paths.assign(model.paths().begin(), model.paths().end());
  const auto add = [&](TensorRole role, int layer, const model::TensorInfo* info) {
    if (info == nullptr) return;
    layout.tensors.push_back({role,
                              layer,
                              info->name,
                              info->type,
                              info->shape,
                              info->file,
                              info->bytes,
                              ggml_backend_cpu_buffer_type(),
                              {}});
  };
  for (const int layer : request.layers) {
    const std::size_t first = layout.tensors.size();
    for (const TensorRole role : model::all_tensor_roles()) {
      if (model::is_per_layer(role)) add(role, layer, model.find(role, layer));
    }
    std::stable_sort(layout.tensors.begin() + static_cast<std::ptrdiff_t>(first),
                     layout.tensors.end(), [](const PlacedTensor& a, const PlacedTensor& b) {
                       return rank_of_use(a.role) < rank_of_use(b.role);
                     });
  }
  for (const TensorRole role : model::all_tensor_roles()) {
    if (model::is_per_layer(role) || role == TensorRole::output) continue;
    if (role == TensorRole::token_embedding && !request.embedding) continue;
    if (role == TensorRole::output_norm && !request.output) continue;
    add(role, -1, model.find(role));
  }
  if (request.output) {
    const model::TensorInfo* output = model.find(TensorRole::output);
    add(TensorRole::output, -1,
        output != nullptr ? output : model.find(TensorRole::token_embedding));
  }
  return layout;
}

}  // namespace prima::weights

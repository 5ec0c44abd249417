#include "plan/named_shapes.h"

#include <algorithm>
#include <cmath>

#include "compute/gpu.h"

namespace prima::plan {
namespace {

struct Dimensions {
  const char* name;
  std::uint32_t n_layer;
  std::uint32_t n_embd;
  std::uint32_t n_ff;
  std::uint32_t n_head;
  std::uint32_t n_head_kv;
  std::uint32_t n_vocab;
  std::uint32_t n_ctx_train;
  std::uint32_t n_expert;
  std::uint32_t n_expert_used;
};

// Public configurations. The 14B, 45B and 60B Llamas of the Prima.cpp paper are no releases; here
// they have the dimensions of the 8B (14B) and the 70B (45B, 60B) and as many layers as make the
// size: 218 M parameters a layer of the 8B's (59.4 for 14B with its embeddings), 856 M of the 70B's
// (50.1 and 67.7).
constexpr Dimensions kModels[] = {
    {"llama-8b", 32, 4096, 14336, 32, 8, 128256, 131072, 0, 0},
    {"llama-14b", 59, 4096, 14336, 32, 8, 128256, 131072, 0, 0},
    {"llama-30b", 60, 6656, 17920, 52, 52, 32000, 2048, 0, 0},
    {"llama-45b", 50, 8192, 28672, 64, 8, 128256, 131072, 0, 0},
    {"llama-60b", 68, 8192, 28672, 64, 8, 128256, 131072, 0, 0},
    {"llama-65b", 80, 8192, 22016, 64, 64, 32000, 2048, 0, 0},
    {"llama-70b", 80, 8192, 28672, 64, 8, 128256, 131072, 0, 0},
    {"llama-405b", 126, 16384, 53248, 128, 8, 128256, 131072, 0, 0},
    {"qwen2.5-7b", 28, 3584, 18944, 28, 4, 152064, 32768, 0, 0},
    {"qwen2.5-14b", 48, 5120, 13824, 40, 8, 152064, 32768, 0, 0},
    {"qwen2.5-32b", 64, 5120, 27648, 40, 8, 152064, 32768, 0, 0},
    {"qwen2.5-72b", 80, 8192, 29568, 64, 8, 152064, 32768, 0, 0},
    {"mixtral-8x7b", 32, 4096, 14336, 32, 8, 32000, 32768, 8, 2},
};

// Bits per weight: blocks of 256 (32 for Q8_0) with their scales.
constexpr double kQ4K = 4.5;
constexpr double kQ6K = 6.5625;
constexpr double kQ8 = 8.5;
constexpr double kF16 = 16;

struct Types {
  const char* name;
  double layer_bits;
  double large_bits;  // of attn_v and ffn_down in the layers a mixture keeps finer
  double output_bits;
};
// Longest suffix first.
constexpr Types kTypes[] = {{"q4_k_m", kQ4K, kQ6K, kQ6K},
                            {"q4_k", kQ4K, kQ4K, kQ6K},
                            {"q8_0", kQ8, kQ8, kQ8},
                            {"f16", kF16, kF16, kF16}};

Bytes bytes_of(double weights, double bits) {
  return static_cast<Bytes>(std::llround(weights * bits / 8));
}

LayerClass layer_class(const Dimensions& model, const Types& types, bool finer) {
  const double embd = model.n_embd;
  const double kv = embd / model.n_head * model.n_head_kv;
  const double attention = 2 * embd * embd + embd * kv;  // q, output, k
  const double value = embd * kv;
  const double up = 2 * embd * model.n_ff;  // gate, up
  const double down = embd * model.n_ff;
  const double large = finer ? types.large_bits : types.layer_bits;
  const Bytes norms = static_cast<Bytes>(2 * embd * 4);

  LayerClass layer;
  layer.name = finer ? "finer" : "plain";
  layer.dense_bytes = bytes_of(attention, types.layer_bits) + bytes_of(value, large) + norms;
  layer.active_parameters = static_cast<std::uint64_t>(attention + value);
  const Bytes feed_forward = bytes_of(up, types.layer_bits) + bytes_of(down, large);
  if (model.n_expert > 0) {
    layer.n_expert = model.n_expert;
    layer.n_expert_used = model.n_expert_used;
    layer.expert_bytes = feed_forward;
    layer.dense_bytes += static_cast<Bytes>(embd * model.n_expert * 4);  // the router
    layer.active_parameters += static_cast<std::uint64_t>((up + down) * model.n_expert_used);
  } else {
    layer.dense_bytes += feed_forward;
    layer.active_parameters += static_cast<std::uint64_t>(up + down);
  }
  layer.kv_bytes_per_token = static_cast<Bytes>(2 * kv * 2);  // k and v in F16
  return layer;
}

// llama.cpp's rule for which layers of a _M mixture are finer: the first and last eighth, and every
// third between.
bool is_finer(std::uint32_t layer, std::uint32_t n_layer) {
  return layer < n_layer / 8 || layer >= 7 * n_layer / 8 || (layer - n_layer / 8) % 3 == 2;
}

ModelShape shape_of(const Dimensions& model, const Types& types) {
  ModelShape shape;
  shape.name = std::string(model.name) + "-" + types.name;
  shape.n_embd = model.n_embd;
  shape.n_ctx_train = model.n_ctx_train;
  shape.classes.push_back(layer_class(model, types, false));
  const bool mixed = types.large_bits != types.layer_bits;
  if (mixed) shape.classes.push_back(layer_class(model, types, true));
  for (std::uint32_t layer = 0; layer < model.n_layer; ++layer) {
    shape.layers.push_back(mixed && is_finer(layer, model.n_layer) ? 1 : 0);
  }
  const double output = static_cast<double>(model.n_embd) * model.n_vocab;
  shape.output_parameters = static_cast<std::uint64_t>(output);
  shape.output_bytes = bytes_of(output, types.output_bits) + model.n_embd * 4;
  shape.buffer_bytes = default_buffer_bytes(model.n_embd, model.n_ff, model.n_vocab);
  model::Hyperparameters hyperparameters{};
  hyperparameters.n_embd = model.n_embd;
  hyperparameters.n_ff = model.n_ff;
  hyperparameters.n_ff_expert = model.n_ff;
  hyperparameters.n_expert_used = model.n_expert_used;
  shape.gpu_activation_bytes = compute::gpu_activation_bytes(hyperparameters);
  shape.gpu_scratch_bytes = compute::kGpuScratchBytes;
  shape.gpu_matrix_bytes = 2 * Bytes{model.n_embd} * model.n_ff;
  return shape;
}

}  // namespace

std::vector<std::string> shape_names() {
  std::vector<std::string> names;
  for (const Dimensions& model : kModels) {
    for (const Types& types : kTypes) names.push_back(std::string(model.name) + "-" + types.name);
  }
  return names;
}

Result<ModelShape> named_shape(std::string_view name) {
  for (const Dimensions& model : kModels) {
    for (const Types& types : kTypes) {
      if (name == std::string(model.name) + "-" + types.name) return shape_of(model, types);
    }
  }
  std::string known;
  for (const Dimensions& model : kModels)
    known += std::string(known.empty() ? "" : ", ") + model.name;
  return fail(ErrorCode::not_found, "no shape is called '" + std::string(name) + "'",
              "Use one of " + known + ", with -q4_k, -q4_k_m, -q8_0 or -f16 behind it");
}

}  // namespace prima::plan

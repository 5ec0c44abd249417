#include "plan/model_shape.h"

#include <algorithm>
#include <cmath>

#include "profile/device_profile.h"

namespace prima::plan {

Status validate(const ModelShape& shape) {
  const auto bad = [&](const std::string& what, const std::string& remedy) {
    return fail(ErrorCode::invalid_argument, "model shape '" + shape.name + "': " + what, remedy);
  };
  if (shape.layers.empty()) return bad("no layers", "Give it at least one layer");
  if (shape.classes.empty()) return bad("no layer classes", "Give it at least one class");
  if (shape.n_embd == 0) return bad("n_embd is 0", "Give the width of the hidden state");
  if (shape.piece_bytes == 0) return bad("piece_bytes is 0", "Use a piece of some megabytes");
  for (const std::uint16_t layer : shape.layers) {
    if (layer >= shape.classes.size()) {
      return bad("a layer of class " + std::to_string(layer) + " of " +
                     std::to_string(shape.classes.size()),
                 "Number the classes from 0");
    }
  }
  for (const LayerClass& layer : shape.classes) {
    if (weight_bytes(layer) == 0) return bad("class '" + layer.name + "' has no weights", "");
    if (layer.n_expert_used > layer.n_expert) {
      return bad("class '" + layer.name + "' uses more experts than it has", "");
    }
    if ((layer.expert_bytes == 0) != (layer.n_expert == 0) ||
        (layer.n_expert == 0) != (layer.n_expert_used == 0)) {
      return bad("class '" + layer.name +
                     "' needs all or none of expert_bytes, n_expert and "
                     "n_expert_used",
                 "Set the missing one");
    }
  }
  return {};
}

std::vector<std::vector<std::uint32_t>> layers_by_class(const ModelShape& shape) {
  std::vector<std::vector<std::uint32_t>> layers(shape.classes.size());
  for (std::uint32_t i = 0; i < shape.layers.size(); ++i) layers[shape.layers[i]].push_back(i);
  return layers;
}

Bytes weight_bytes(const LayerClass& layer) {
  return layer.dense_bytes + layer.expert_bytes * layer.n_expert;
}

Bytes weight_bytes(const ModelShape& shape) {
  Bytes sum = shape.output_bytes;
  for (const std::uint16_t layer : shape.layers) sum += weight_bytes(shape.classes[layer]);
  return sum;
}

double expert_read_ratio(const LayerClass& layer, double tokens) {
  if (layer.n_expert == 0) return 1.0;
  const double unused = 1.0 - static_cast<double>(layer.n_expert_used) / layer.n_expert;
  return 1.0 - std::pow(unused, tokens);
}

double expected_read_bytes(const LayerClass& layer, double tokens) {
  const double experts = static_cast<double>(layer.expert_bytes) * layer.n_expert;
  return static_cast<double>(layer.dense_bytes) + experts * expert_read_ratio(layer, tokens);
}

Bytes kv_bytes(const LayerClass& layer, std::uint32_t n_ctx) {
  const std::uint32_t cells =
      layer.window_tokens > 0 ? std::min(layer.window_tokens, n_ctx) : n_ctx;
  return layer.kv_bytes_per_token * cells;
}

Bytes kv_bytes(const ModelShape& shape, std::uint32_t n_ctx) {
  Bytes sum = 0;
  for (const std::uint16_t layer : shape.layers) sum += kv_bytes(shape.classes[layer], n_ctx);
  return sum;
}

std::uint32_t piece_count(Bytes bytes, Bytes piece_bytes) {
  return static_cast<std::uint32_t>((bytes + piece_bytes - 1) / piece_bytes);
}

Bytes default_buffer_bytes(std::uint32_t n_embd, std::uint32_t n_ff, std::uint32_t n_vocab) {
  return profile::kProfiledStepTokens * 4 * (2 * Bytes{n_embd} + 2 * Bytes{n_ff}) +
         4 * Bytes{n_vocab};
}

}  // namespace prima::plan

#include "model/tensor_layout.h"

#include <unordered_map>

#include <spdlog/fmt/fmt.h>

namespace prima::model {
namespace {

class Layout {
 public:
  void set_layer(int layer) { layer_ = layer; }

  void require(TensorRole role, std::int64_t columns, std::int64_t rows = 1,
               std::int64_t experts = 1) {
    add(role, columns, rows, experts, true);
  }
  void allow(TensorRole role, std::int64_t columns, std::int64_t rows = 1) {
    add(role, columns, rows, 1, false);
  }

  std::vector<ExpectedTensor> take() { return std::move(tensors_); }

 private:
  void add(TensorRole role, std::int64_t columns, std::int64_t rows, std::int64_t experts,
           bool required) {
    tensors_.push_back(
        {role, is_per_layer(role) ? layer_ : -1, {columns, rows, experts, 1}, required});
  }

  int layer_ = -1;
  std::vector<ExpectedTensor> tensors_;
};

void add_attention(const Hyperparameters& model, Layout& layout) {
  const Architecture& architecture = *model.architecture;
  const std::int64_t n_embd = model.n_embd;
  const std::int64_t n_q = model.n_embd_q();
  const std::int64_t n_kv = model.n_embd_kv();
  layout.require(TensorRole::attention_norm, n_embd);
  if (architecture.fused_qkv) {
    layout.require(TensorRole::attention_qkv, n_embd, n_q + 2 * n_kv);
    layout.allow(TensorRole::attention_qkv_bias, n_q + 2 * n_kv);
  } else {
    layout.require(TensorRole::attention_q, n_embd, n_q);
    layout.allow(TensorRole::attention_q_bias, n_q);
    layout.require(TensorRole::attention_k, n_embd, n_kv);
    layout.allow(TensorRole::attention_k_bias, n_kv);
    layout.require(TensorRole::attention_v, n_embd, n_kv);
    layout.allow(TensorRole::attention_v_bias, n_kv);
  }
  if (architecture.qk_norm) {
    layout.require(TensorRole::attention_q_norm, model.head_dim);
    layout.require(TensorRole::attention_k_norm, model.head_dim);
  }
  layout.require(TensorRole::attention_output, n_q, n_embd);
  if (architecture.biases) layout.allow(TensorRole::attention_output_bias, n_embd);
  if (architecture.post_norms) layout.require(TensorRole::attention_post_norm, n_embd);
}

void add_feed_forward(const Hyperparameters& model, Layout& layout) {
  const Architecture& architecture = *model.architecture;
  const std::int64_t n_embd = model.n_embd;
  const std::int64_t n_ff = model.n_ff;
  layout.require(TensorRole::ffn_norm, n_embd);
  if (model.n_expert > 0) {
    const std::int64_t n_expert = model.n_expert;
    const std::int64_t n_ff_expert = model.n_ff_expert;
    layout.require(TensorRole::router, n_embd, n_expert);
    layout.require(TensorRole::experts_gate, n_embd, n_ff_expert, n_expert);
    layout.require(TensorRole::experts_up, n_embd, n_ff_expert, n_expert);
    layout.require(TensorRole::experts_down, n_ff_expert, n_embd, n_expert);
  } else {
    if (architecture.fused_gate_up) {
      layout.require(TensorRole::ffn_up, n_embd, 2 * n_ff);
    } else {
      layout.require(TensorRole::ffn_gate, n_embd, n_ff);
      layout.require(TensorRole::ffn_up, n_embd, n_ff);
    }
    layout.require(TensorRole::ffn_down, n_ff, n_embd);
    if (architecture.biases) {
      layout.allow(TensorRole::ffn_gate_bias, n_ff);
      layout.allow(TensorRole::ffn_up_bias, n_ff);
      layout.allow(TensorRole::ffn_down_bias, n_embd);
    }
  }
  if (architecture.post_norms) layout.require(TensorRole::ffn_post_norm, n_embd);
}

std::string shape_text(const std::array<std::int64_t, 4>& shape) {
  std::string text = fmt::format("{} x {}", shape[0], shape[1]);
  for (std::size_t i = 2; i < shape.size(); ++i) {
    if (shape[i] != 1) text += fmt::format(" x {}", shape[i]);
  }
  return text;
}

Status check_type(std::string_view file_name, const GgufTensor& tensor, TensorRole role) {
  if (is_elementwise(role)) {
    if (tensor.type == GGML_TYPE_F32) return {};
    return fail(ErrorCode::unsupported,
                fmt::format("{}: tensor {} has type {}; F32 is expected here", file_name,
                            tensor.name, ggml_type_name(tensor.type)),
                "Convert the model with a current convert_hf_to_gguf.py");
  }
  // ggml computes with the types that it can turn into floats.
  if (tensor.type == GGML_TYPE_F32 || ggml_get_type_traits(tensor.type)->to_float != nullptr) {
    return {};
  }
  return fail(ErrorCode::unsupported,
              fmt::format("{}: tensor {} has type {}, which ggml cannot multiply with", file_name,
                          tensor.name, ggml_type_name(tensor.type)),
              "Use a file quantized to a current type, such as Q4_K_M");
}

// Biases of q, k and v stand together or not at all, as do the two sets of rope factors.
Status check_sets(std::string_view file_name, const Hyperparameters& model,
                  const std::unordered_map<std::string_view, const GgufTensor*>& by_name) {
  const auto check = [&](std::span<const TensorRole> set, int layer) -> Status {
    std::size_t present = 0;
    std::string missing;
    for (const TensorRole role : set) {
      const std::string name = tensor_name(role, layer);
      if (by_name.contains(name)) {
        ++present;
      } else {
        missing = name;
      }
    }
    if (present == 0 || present == set.size()) return {};
    return fail(
        ErrorCode::corrupt,
        fmt::format("{}: tensor {} is missing, though its siblings are there", file_name, missing),
        "Download the file again");
  };
  constexpr TensorRole kBiases[] = {TensorRole::attention_q_bias, TensorRole::attention_k_bias,
                                    TensorRole::attention_v_bias};
  constexpr TensorRole kFactors[] = {TensorRole::rope_factors_long, TensorRole::rope_factors_short};
  for (std::uint32_t layer = 0; layer < model.n_layer; ++layer) {
    PRIMA_RETURN_IF_ERROR(check(kBiases, static_cast<int>(layer)));
  }
  return check(kFactors, -1);
}

}  // namespace

bool is_elementwise(TensorRole role) {
  switch (role) {
    case TensorRole::token_embedding:
    case TensorRole::output:
    case TensorRole::attention_qkv:
    case TensorRole::attention_q:
    case TensorRole::attention_k:
    case TensorRole::attention_v:
    case TensorRole::attention_output:
    case TensorRole::router:
    case TensorRole::experts_gate:
    case TensorRole::experts_up:
    case TensorRole::experts_down:
    case TensorRole::ffn_gate:
    case TensorRole::ffn_up:
    case TensorRole::ffn_down: return false;
    default: return true;
  }
}

std::vector<ExpectedTensor> expected_tensors(const Hyperparameters& model) {
  Layout layout;
  layout.require(TensorRole::token_embedding, model.n_embd, model.n_vocab);
  if (model.architecture->rope_factors) {
    const std::int64_t n_factors = model.rope.n_rot / 2;
    const bool longrope = model.rope.scaling == RopeScaling::longrope;
    if (longrope || model.architecture->fused_qkv) {
      layout.allow(TensorRole::rope_factors_long, n_factors);
      layout.allow(TensorRole::rope_factors_short, n_factors);
    } else {
      layout.allow(TensorRole::rope_factors, n_factors);
    }
  }
  for (std::uint32_t layer = 0; layer < model.n_layer; ++layer) {
    layout.set_layer(static_cast<int>(layer));
    add_attention(model, layout);
    add_feed_forward(model, layout);
  }
  layout.require(TensorRole::output_norm, model.n_embd);
  layout.allow(TensorRole::output, model.n_embd, model.n_vocab);
  return layout.take();
}

Status check_tensors(std::string_view file_name, const Hyperparameters& model,
                     std::span<const GgufTensor> tensors) {
  std::unordered_map<std::string_view, const GgufTensor*> by_name;
  for (const GgufTensor& tensor : tensors) {
    if (!by_name.emplace(tensor.name, &tensor).second) {
      return fail(ErrorCode::corrupt,
                  fmt::format("{}: tensor {} appears twice", file_name, tensor.name),
                  "Download the file again");
    }
  }
  std::size_t used = 0;
  std::unordered_map<std::string, TensorRole> expected_names;
  for (const ExpectedTensor& expected : expected_tensors(model)) {
    std::string name = tensor_name(expected.role, expected.layer);
    const auto found = by_name.find(name);
    if (found == by_name.end()) {
      if (!expected.required) continue;
      return fail(ErrorCode::corrupt, fmt::format("{}: tensor {} is missing", file_name, name),
                  "Download the file again");
    }
    const GgufTensor& tensor = *found->second;
    if (tensor.shape != expected.shape) {
      return fail(ErrorCode::corrupt,
                  fmt::format("{}: tensor {} is {}; by the metadata it should be {}", file_name,
                              tensor.name, shape_text(tensor.shape), shape_text(expected.shape)),
                  "Download the file again, or convert the model again");
    }
    PRIMA_RETURN_IF_ERROR(check_type(file_name, tensor, expected.role));
    expected_names.emplace(std::move(name), expected.role);
    ++used;
  }
  if (used < tensors.size()) {
    for (const GgufTensor& tensor : tensors) {
      if (expected_names.contains(tensor.name)) continue;
      return fail(ErrorCode::unsupported,
                  fmt::format("{}: tensor {} has no place in architecture {}", file_name,
                              tensor.name, model.architecture->name),
                  "Convert the model again with a current convert_hf_to_gguf.py, without options "
                  "that fuse or add tensors");
    }
  }
  return check_sets(file_name, model, by_name);
}

}  // namespace prima::model

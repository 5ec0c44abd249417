#include "compute/forward.h"

#include <array>
#include <cmath>

namespace prima::compute {
namespace {

using model::Activation;
using model::RopePairs;
using model::TensorRole;

struct Heads {
  ggml_tensor* q;  // (head_dim, n_head, n_tokens)
  ggml_tensor* k;  // (head_dim, n_head_kv, n_tokens)
  ggml_tensor* v;  // (head_dim, n_head_kv, n_tokens)
};

// weight: (columns, rows), perhaps in parts of some rows; x: (columns, n) -> (rows, n). The parts'
// products are as they would be in the whole: each row's stands alone.
ggml_tensor* multiply(ggml_context* context, std::span<ggml_tensor* const> weight, ggml_tensor* x) {
  ggml_tensor* y = ggml_mul_mat(context, weight.front(), x);
  for (ggml_tensor* part : weight.subspan(1)) {
    y = ggml_concat(context, y, ggml_mul_mat(context, part, x), 0);
  }
  return y;
}

class LayerBuilder {
 public:
  LayerBuilder(ggml_context* context, ggml_cgraph* graph, const ForwardModel& model,
               const ForwardShape& shape, const ForwardInputs& inputs)
      : ctx_(context),
        graph_(graph),
        hp_(model.hyperparameters),
        arch_(*model.hyperparameters.architecture),
        model_(model),
        shape_(shape),
        inputs_(inputs) {}

  // x: (n_embd, n_tokens) -> (n_embd, n_tokens or n_outputs); null if nothing is wanted of it.
  ggml_tensor* layer(ggml_tensor* x, std::uint32_t layer) {
    layer_ = layer;
    const bool is_last = layer + 1 == hp_.n_layer;

    const Heads heads = attention_heads(norm(x, TensorRole::attention_norm));
    store(heads);
    if (is_last && shape_.n_outputs == 0) return nullptr;

    ggml_tensor* attention = attend(heads.q);  // (n_embd, n_tokens)
    if (is_last && inputs_.outputs != nullptr) {
      attention = ggml_get_rows(ctx_, attention, inputs_.outputs);  // (n_embd, n_outputs)
      x = ggml_get_rows(ctx_, x, inputs_.outputs);
    }
    if (arch_.post_norms) attention = norm(attention, TensorRole::attention_post_norm);
    x = ggml_add(ctx_, attention, x);

    ggml_tensor* ffn = feed_forward(norm(x, TensorRole::ffn_norm));
    if (arch_.post_norms) ffn = norm(ffn, TensorRole::ffn_post_norm);
    return ggml_add(ctx_, ffn, x);
  }

 private:
  ggml_tensor* weight(TensorRole role) const {
    return model_.weights.find(role, static_cast<int>(layer_));
  }

  ggml_tensor* norm(ggml_tensor* x, TensorRole role) {
    return ggml_mul(ctx_, ggml_rms_norm(ctx_, x, hp_.rms_epsilon), weight(role));
  }

  // x: (columns, n) -> (rows, n), plus the bias where the model has one.
  ggml_tensor* linear(ggml_tensor* x, TensorRole matrix, TensorRole bias) {
    ggml_tensor* y = multiply(ctx_, model_.weights.parts(matrix, static_cast<int>(layer_)), x);
    ggml_tensor* b = weight(bias);
    return b != nullptr ? ggml_add(ctx_, y, b) : y;
  }

  // x: (n_embd, n_tokens)
  Heads attention_heads(ggml_tensor* x) {
    Heads heads = arch_.fused_qkv ? split_heads(x) : separate_heads(x);
    if (arch_.qk_norm) {
      heads.q = norm(heads.q, TensorRole::attention_q_norm);
      heads.k = norm(heads.k, TensorRole::attention_k_norm);
    }
    heads.q = rope(heads.q);
    heads.k = rope(heads.k);
    if (arch_.scaled_query) heads.q = ggml_scale(ctx_, heads.q, hp_.attention_scale);
    return heads;
  }

  Heads separate_heads(ggml_tensor* x) {
    ggml_tensor* q = linear(x, TensorRole::attention_q, TensorRole::attention_q_bias);
    ggml_tensor* k = linear(x, TensorRole::attention_k, TensorRole::attention_k_bias);
    ggml_tensor* v = linear(x, TensorRole::attention_v, TensorRole::attention_v_bias);
    const std::int64_t n = shape_.n_tokens;
    return {ggml_reshape_3d(ctx_, q, hp_.head_dim, hp_.n_head, n),
            ggml_reshape_3d(ctx_, k, hp_.head_dim, hp_.n_head_kv, n),
            ggml_reshape_3d(ctx_, v, hp_.head_dim, hp_.n_head_kv, n)};
  }

  Heads split_heads(ggml_tensor* x) {
    ggml_tensor* qkv = linear(x, TensorRole::attention_qkv, TensorRole::attention_qkv_bias);
    const auto part = [&](std::int64_t n_heads, std::int64_t first_element) {
      return ggml_view_3d(ctx_, qkv, hp_.head_dim, n_heads, shape_.n_tokens,
                          ggml_row_size(qkv->type, hp_.head_dim), qkv->nb[1],
                          ggml_row_size(qkv->type, first_element));
    };
    const std::int64_t n_q = hp_.n_embd_q();
    const std::int64_t n_kv = hp_.n_embd_kv();
    return {part(hp_.n_head, 0), part(hp_.n_head_kv, n_q), part(hp_.n_head_kv, n_q + n_kv)};
  }

  // x: (head_dim, n_heads, n_tokens)
  ggml_tensor* rope(ggml_tensor* x) {
    const model::Rope& rope = hp_.rope;
    const bool windowed = hp_.has_sliding_window(layer_);
    const int mode =
        arch_.rope_pairs == RopePairs::halves ? GGML_ROPE_TYPE_NEOX : GGML_ROPE_TYPE_NORMAL;
    return ggml_rope_ext(ctx_, x, inputs_.positions, rope_factors(), static_cast<int>(rope.n_rot),
                         mode, static_cast<int>(rope.n_ctx_original),
                         windowed ? rope.frequency_base_windowed : rope.frequency_base,
                         windowed ? 1.0f : rope.frequency_scale, rope.yarn_ext_factor,
                         rope.attention_factor, rope.yarn_beta_fast, rope.yarn_beta_slow);
  }

  ggml_tensor* rope_factors() const {
    if (ggml_tensor* factors = weight(TensorRole::rope_factors)) return factors;
    const bool beyond_original = model_.n_ctx > hp_.rope.n_ctx_original;
    return weight(beyond_original ? TensorRole::rope_factors_long : TensorRole::rope_factors_short);
  }

  void store(const Heads& heads) {
    // q, k and v follow one another, as in llama.cpp, so that backends can fuse them.
    ggml_build_forward_expand(graph_, heads.q);
    ggml_build_forward_expand(graph_, heads.v);
    ggml_build_forward_expand(graph_, heads.k);
    const auto store_rows = [&](ggml_tensor* cache, ggml_tensor* x) {
      // (head_dim, n_head_kv, n_tokens) -> (n_embd_kv, n_tokens)
      ggml_tensor* rows = ggml_view_2d(ctx_, x, hp_.n_embd_kv(), shape_.n_tokens, x->nb[2], 0);
      ggml_build_forward_expand(graph_, ggml_set_rows(ctx_, cache, rows, inputs_.cells));
    };
    store_rows(model_.kv_cache.keys(layer_), heads.k);
    store_rows(model_.kv_cache.values(layer_), heads.v);
  }

  // q: (head_dim, n_head, n_tokens) -> (n_embd, n_tokens)
  ggml_tensor* attend(ggml_tensor* q) {
    const auto read = [&](ggml_tensor* cache) {  // (head_dim, n_kv, n_head_kv)
      return ggml_view_3d(ctx_, cache, hp_.head_dim, shape_.n_kv, hp_.n_head_kv, cache->nb[1],
                          ggml_row_size(cache->type, hp_.head_dim), 0);
    };
    ggml_tensor* mask = hp_.has_sliding_window(layer_) ? inputs_.mask_windowed : inputs_.mask;
    const float scale = arch_.scaled_query ? 1.0f : hp_.attention_scale;
    ggml_tensor* y = ggml_flash_attn_ext(
        ctx_, ggml_permute(ctx_, q, 0, 2, 1, 3), read(model_.kv_cache.keys(layer_)),
        read(model_.kv_cache.values(layer_)), mask, scale, 0.0f, 0.0f);
    ggml_prec_set_acc(y, GGML_PREC_F32);
    y = ggml_reshape_2d(ctx_, y, hp_.n_embd_q(), shape_.n_tokens);
    return linear(y, TensorRole::attention_output, TensorRole::attention_output_bias);
  }

  // x: (n_embd, n) -> (n_embd, n)
  ggml_tensor* feed_forward(ggml_tensor* x) {
    if (weight(TensorRole::router) != nullptr) return experts(x);
    ggml_tensor* up = linear(x, TensorRole::ffn_up, TensorRole::ffn_up_bias);
    ggml_tensor* activated = nullptr;
    if (arch_.fused_gate_up) {
      activated =
          arch_.activation == Activation::silu ? ggml_swiglu(ctx_, up) : ggml_geglu(ctx_, up);
    } else {
      ggml_tensor* gate = linear(x, TensorRole::ffn_gate, TensorRole::ffn_gate_bias);
      activated = gated(gate, up);
    }
    return linear(activated, TensorRole::ffn_down, TensorRole::ffn_down_bias);
  }

  ggml_tensor* gated(ggml_tensor* gate, ggml_tensor* up) {
    return arch_.activation == Activation::silu ? ggml_swiglu_split(ctx_, gate, up)
                                                : ggml_geglu_split(ctx_, gate, up);
  }

  // x: (n_embd, n) -> (n_embd, n): the router's best n_expert_used experts, weighted.
  ggml_tensor* experts(ggml_tensor* x) {
    const std::int64_t n = x->ne[1];
    const std::int64_t n_used = hp_.n_expert_used;

    ggml_tensor* probabilities =
        ggml_soft_max(ctx_, ggml_mul_mat(ctx_, weight(TensorRole::router), x));  // (n_expert, n)
    ggml_tensor* chosen =
        ggml_argsort_top_k(ctx_, probabilities, static_cast<int>(n_used));  // (n_used, n)
    ggml_tensor* share = ggml_get_rows(
        ctx_, ggml_reshape_3d(ctx_, probabilities, 1, hp_.n_expert, n), chosen);  // (1, n_used, n)
    share = normalized(ggml_reshape_2d(ctx_, share, n_used, n));
    share = ggml_reshape_3d(ctx_, share, 1, n_used, n);
    ggml_build_forward_expand(graph_, share);

    x = ggml_reshape_3d(ctx_, x, hp_.n_embd, 1, n);
    ggml_tensor* up = ggml_mul_mat_id(ctx_, weight(TensorRole::experts_up), x, chosen);
    ggml_tensor* gate = ggml_mul_mat_id(ctx_, weight(TensorRole::experts_gate), x, chosen);
    ggml_tensor* y = gated(gate, up);  // (n_ff_expert, n_used, n)
    y = ggml_mul_mat_id(ctx_, weight(TensorRole::experts_down), y, chosen);  // (n_embd, n_used, n)
    y = ggml_mul(ctx_, y, share);
    ggml_build_forward_expand(graph_, y);
    return sum_of_experts(y);
  }

  // share: (n_used, n), made to sum to one for each token.
  ggml_tensor* normalized(ggml_tensor* share) {
    constexpr float kSmallestHalf = 6.103515625e-5f;  // keeps the divisor normal in f16
    ggml_tensor* sum = ggml_clamp(ctx_, ggml_sum_rows(ctx_, share), kSmallestHalf, INFINITY);
    share = ggml_div(ctx_, share, sum);
    const float scale = hp_.expert_weights_scale;
    return scale == 1.0f ? share : ggml_scale(ctx_, share, scale);
  }

  // y: (n_embd, n_used, n) -> (n_embd, n)
  ggml_tensor* sum_of_experts(ggml_tensor* y) {
    const auto expert = [&](std::int64_t i) {
      return ggml_view_2d(ctx_, y, y->ne[0], y->ne[2], y->nb[2], i * y->nb[1]);
    };
    if (y->ne[1] == 1) return ggml_cont(ctx_, expert(0));
    ggml_tensor* sum = expert(0);
    for (std::int64_t i = 1; i < y->ne[1]; ++i) sum = ggml_add(ctx_, sum, expert(i));
    return sum;
  }

  ggml_context* ctx_;
  ggml_cgraph* graph_;
  const model::Hyperparameters& hp_;
  const model::Architecture& arch_;
  const ForwardModel& model_;
  const ForwardShape& shape_;
  const ForwardInputs& inputs_;
  std::uint32_t layer_ = 0;
};

ggml_tensor* new_input(ggml_context* context, ggml_type type, std::int64_t columns,
                       std::int64_t rows, const char* name) {
  ggml_tensor* tensor = ggml_new_tensor_2d(context, type, columns, rows);
  ggml_set_input(tensor);
  ggml_set_name(tensor, name);
  return tensor;
}

ForwardInputs new_inputs(ggml_context* context, const ForwardModel& model,
                         const ForwardShape& shape) {
  const model::Hyperparameters& hp = model.hyperparameters;
  ForwardInputs inputs;
  inputs.hidden = new_input(context, GGML_TYPE_F32, hp.n_embd, shape.n_tokens, "hidden");
  inputs.positions = new_input(context, GGML_TYPE_I32, shape.n_tokens, 1, "positions");
  inputs.cells = new_input(context, GGML_TYPE_I64, shape.n_tokens, 1, "cells");
  bool any_windowed = false;
  bool any_full = false;
  for (std::uint32_t layer = shape.layers.first; layer < shape.layers.last; ++layer) {
    // A last layer without outputs attends to nothing.
    if (layer + 1 == hp.n_layer && shape.n_outputs == 0) continue;
    (hp.has_sliding_window(layer) ? any_windowed : any_full) = true;
  }
  if (any_full) {
    inputs.mask = new_input(context, GGML_TYPE_F16, shape.n_kv, shape.n_tokens, "mask");
  }
  if (any_windowed) {
    inputs.mask_windowed =
        new_input(context, GGML_TYPE_F16, shape.n_kv, shape.n_tokens, "mask_windowed");
  }
  const bool drops_tokens =
      shape.layers.last == hp.n_layer && shape.n_outputs > 0 && shape.n_outputs < shape.n_tokens;
  if (drops_tokens) {
    inputs.outputs = new_input(context, GGML_TYPE_I32, shape.n_outputs, 1, "outputs");
  }
  return inputs;
}

}  // namespace

ggml_tensor* build_layers(ggml_context* context, ggml_cgraph* graph, const ForwardModel& model,
                          const ForwardShape& shape, ForwardInputs& inputs) {
  inputs = new_inputs(context, model, shape);
  LayerBuilder builder(context, graph, model, shape, inputs);
  ggml_tensor* x = inputs.hidden;
  for (std::uint32_t layer = shape.layers.first; layer < shape.layers.last; ++layer) {
    x = builder.layer(x, layer);
  }
  if (x == nullptr) return nullptr;
  ggml_set_output(x);
  ggml_build_forward_expand(graph, x);
  return x;
}

ggml_tensor* build_output(ggml_context* context, ggml_cgraph* graph, const ForwardModel& model,
                          const ForwardShape& shape, ForwardInputs& inputs) {
  const model::Hyperparameters& hp = model.hyperparameters;
  inputs.hidden = new_input(context, GGML_TYPE_F32, hp.n_embd, shape.n_outputs, "hidden");
  ggml_tensor* x = ggml_rms_norm(context, inputs.hidden, hp.rms_epsilon);
  x = ggml_mul(context, x, model.weights.find(TensorRole::output_norm, -1));
  if (shape.output == ForwardShape::Output::logits) {
    x = multiply(context, model.weights.parts(TensorRole::output, -1), x);
    if (hp.final_logit_softcap > 0.0f) {
      x = ggml_scale(context, x, 1.0f / hp.final_logit_softcap);
      x = ggml_scale(context, ggml_tanh(context, x), hp.final_logit_softcap);
    }
  }
  ggml_set_output(x);
  ggml_build_forward_expand(graph, x);
  return x;
}

}  // namespace prima::compute

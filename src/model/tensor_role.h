// What each tensor of a model is for, and what it is called in a GGUF file.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace prima::model {

// In the order in which a layer uses them. Shapes are (columns, rows[, experts]), ggml's ne order.
enum class TensorRole : std::uint8_t {
  // Of the whole model.
  token_embedding,     // (n_embd, n_vocab); also the output layer where `output` is absent
  output_norm,         // (n_embd)
  output,              // (n_embd, n_vocab)
  rope_factors,        // (n_rot/2): Llama 3's frequency factors
  rope_factors_long,   // (n_rot/2): Phi 3's, for contexts beyond the original
  rope_factors_short,  // (n_rot/2)
  // Of each layer: attention.
  attention_norm,  // (n_embd)
  attention_qkv,   // (n_embd, (n_head + 2 n_head_kv) head_dim)
  attention_qkv_bias,
  attention_q,  // (n_embd, n_head head_dim)
  attention_q_bias,
  attention_q_norm,  // (head_dim)
  attention_k,       // (n_embd, n_head_kv head_dim)
  attention_k_bias,
  attention_k_norm,  // (head_dim)
  attention_v,       // (n_embd, n_head_kv head_dim)
  attention_v_bias,
  attention_output,  // (n_head head_dim, n_embd)
  attention_output_bias,
  attention_post_norm,  // (n_embd)
  // Of each layer: feed-forward.
  ffn_norm,      // (n_embd)
  router,        // (n_embd, n_expert)
  experts_gate,  // (n_embd, n_ff_expert, n_expert)
  experts_up,    // (n_embd, n_ff_expert, n_expert)
  experts_down,  // (n_ff_expert, n_embd, n_expert)
  ffn_gate,      // (n_embd, n_ff)
  ffn_gate_bias,
  ffn_up,  // (n_embd, n_ff), or (n_embd, 2 n_ff) with fused_gate_up
  ffn_up_bias,
  ffn_down,  // (n_ff, n_embd)
  ffn_down_bias,
  ffn_post_norm,  // (n_embd)
};

std::span<const TensorRole> all_tensor_roles();

// True for roles that every layer has a tensor of.
bool is_per_layer(TensorRole role);

// "blk.3.attn_q.weight"; `layer` is ignored for roles of the whole model.
std::string tensor_name(TensorRole role, int layer);

struct TensorPlace {
  TensorRole role;
  int layer;  // -1 for roles of the whole model
};

// The inverse of tensor_name; nullopt for names that no supported architecture uses.
std::optional<TensorPlace> parse_tensor_name(std::string_view name);

}  // namespace prima::model

#include "model/tensor_role.h"

#include <array>
#include <charconv>

namespace prima::model {
namespace {

constexpr int kRoles = static_cast<int>(TensorRole::ffn_post_norm) + 1;
constexpr std::string_view kLayerPrefix = "blk.";

struct Name {
  TensorRole role;
  std::string_view text;  // of roles of each layer: what follows "blk.N."
};

constexpr std::array<Name, kRoles> kNames{{
    {TensorRole::token_embedding, "token_embd.weight"},
    {TensorRole::output_norm, "output_norm.weight"},
    {TensorRole::output, "output.weight"},
    {TensorRole::rope_factors, "rope_freqs.weight"},
    {TensorRole::rope_factors_long, "rope_factors_long.weight"},
    {TensorRole::rope_factors_short, "rope_factors_short.weight"},
    {TensorRole::attention_norm, "attn_norm.weight"},
    {TensorRole::attention_qkv, "attn_qkv.weight"},
    {TensorRole::attention_qkv_bias, "attn_qkv.bias"},
    {TensorRole::attention_q, "attn_q.weight"},
    {TensorRole::attention_q_bias, "attn_q.bias"},
    {TensorRole::attention_q_norm, "attn_q_norm.weight"},
    {TensorRole::attention_k, "attn_k.weight"},
    {TensorRole::attention_k_bias, "attn_k.bias"},
    {TensorRole::attention_k_norm, "attn_k_norm.weight"},
    {TensorRole::attention_v, "attn_v.weight"},
    {TensorRole::attention_v_bias, "attn_v.bias"},
    {TensorRole::attention_output, "attn_output.weight"},
    {TensorRole::attention_output_bias, "attn_output.bias"},
    {TensorRole::attention_post_norm, "post_attention_norm.weight"},
    {TensorRole::ffn_norm, "ffn_norm.weight"},
    {TensorRole::router, "ffn_gate_inp.weight"},
    {TensorRole::experts_gate, "ffn_gate_exps.weight"},
    {TensorRole::experts_up, "ffn_up_exps.weight"},
    {TensorRole::experts_down, "ffn_down_exps.weight"},
    {TensorRole::ffn_gate, "ffn_gate.weight"},
    {TensorRole::ffn_gate_bias, "ffn_gate.bias"},
    {TensorRole::ffn_up, "ffn_up.weight"},
    {TensorRole::ffn_up_bias, "ffn_up.bias"},
    {TensorRole::ffn_down, "ffn_down.weight"},
    {TensorRole::ffn_down_bias, "ffn_down.bias"},
    {TensorRole::ffn_post_norm, "post_ffw_norm.weight"},
}};

constexpr std::array<TensorRole, kRoles> listed_roles() {
  std::array<TensorRole, kRoles> roles{};
  for (int i = 0; i < kRoles; ++i) roles[i] = kNames[i].role;
  return roles;
}

constexpr std::array<TensorRole, kRoles> kAllRoles = listed_roles();

constexpr bool in_order() {
  for (int i = 0; i < kRoles; ++i) {
    if (static_cast<int>(kAllRoles[i]) != i) return false;
  }
  return true;
}
static_assert(in_order(), "kNames must list the roles in their order");

}  // namespace

std::span<const TensorRole> all_tensor_roles() { return kAllRoles; }

bool is_per_layer(TensorRole role) { return role >= TensorRole::attention_norm; }

std::string tensor_name(TensorRole role, int layer) {
  const std::string_view text = kNames[static_cast<std::size_t>(role)].text;
  if (!is_per_layer(role)) return std::string(text);
  return std::string(kLayerPrefix) + std::to_string(layer) + "." + std::string(text);
}

std::optional<TensorPlace> parse_tensor_name(std::string_view name) {
  int layer = -1;
  if (name.starts_with(kLayerPrefix)) {
    const std::string_view rest = name.substr(kLayerPrefix.size());
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), layer);
    // One spelling for each layer, so that the name is what tensor_name() gives back.
    const bool padded = rest.size() > 1 && rest[0] == '0' && rest[1] != '.';
    if (error != std::errc() || layer < 0 || padded || end == rest.data() + rest.size() ||
        *end != '.') {
      return std::nullopt;
    }
    name = rest.substr(static_cast<std::size_t>(end - rest.data()) + 1);
  }
  for (const Name& candidate : kNames) {
    if (candidate.text == name && is_per_layer(candidate.role) == (layer >= 0)) {
      return TensorPlace{candidate.role, layer};
    }
  }
  return std::nullopt;
}

}  // namespace prima::model

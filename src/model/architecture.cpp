#include "model/architecture.h"

namespace prima::model {
namespace {

constexpr Architecture kArchitectures[] = {
    // Llama 1 to 3, Mistral, Mixtral, R1 distills
    {.name = "llama",
     .rope_pairs = RopePairs::adjacent,
     .activation = Activation::silu,
     .fused_qkv = false,
     .fused_gate_up = false,
     .qk_norm = false,
     .post_norms = false,
     .scaled_embedding = false,
     .alternating_window = false,
     .needs_experts = false,
     .experts = true,
     .partial_rope = false,
     .biases = true,
     .rope_factors = true},
    {.name = "qwen2",
     .rope_pairs = RopePairs::halves,
     .activation = Activation::silu,
     .fused_qkv = false,
     .fused_gate_up = false,
     .qk_norm = false,
     .post_norms = false,
     .scaled_embedding = false,
     .alternating_window = false,
     .needs_experts = false,
     .experts = false,
     .partial_rope = false,
     .biases = false,
     .rope_factors = false},
    {.name = "qwen3",
     .rope_pairs = RopePairs::halves,
     .activation = Activation::silu,
     .fused_qkv = false,
     .fused_gate_up = false,
     .qk_norm = true,
     .post_norms = false,
     .scaled_embedding = false,
     .alternating_window = false,
     .needs_experts = false,
     .experts = false,
     .partial_rope = false,
     .biases = false,
     .rope_factors = false},
    {.name = "qwen3moe",
     .rope_pairs = RopePairs::halves,
     .activation = Activation::silu,
     .fused_qkv = false,
     .fused_gate_up = false,
     .qk_norm = true,
     .post_norms = false,
     .scaled_embedding = false,
     .alternating_window = false,
     .needs_experts = true,
     .experts = true,
     .partial_rope = false,
     .biases = false,
     .rope_factors = false},
    {.name = "gemma3",
     .rope_pairs = RopePairs::halves,
     .activation = Activation::gelu,
     .fused_qkv = false,
     .fused_gate_up = false,
     .qk_norm = true,
     .post_norms = true,
     .scaled_embedding = true,
     .alternating_window = true,
     .needs_experts = false,
     .experts = false,
     .partial_rope = true,
     .biases = false,
     .rope_factors = false},
    {.name = "phi3",
     .rope_pairs = RopePairs::halves,
     .activation = Activation::silu,
     .fused_qkv = true,
     .fused_gate_up = true,
     .qk_norm = false,
     .post_norms = false,
     .scaled_embedding = false,
     .alternating_window = false,
     .needs_experts = false,
     .experts = false,
     .partial_rope = true,
     .biases = false,
     .rope_factors = true},
};

}  // namespace

std::span<const Architecture> architectures() { return kArchitectures; }

const Architecture* find_architecture(std::string_view name) {
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == name) return &architecture;
  }
  return nullptr;
}

}  // namespace prima::model

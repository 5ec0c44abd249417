#include "model/architecture.h"

namespace prima::model {
namespace {

constexpr Architecture kArchitectures[] = {
    // Llama 1 to 3, Mistral, Mixtral, R1 distills
    {.name = "llama",
     .rope_pairs = RopePairs::adjacent,
     .activation = Activation::silu,
     .experts = true,
     .biases = true,
     .rope_factors = true},
    {.name = "qwen2", .rope_pairs = RopePairs::halves, .activation = Activation::silu},
    {.name = "qwen3",
     .rope_pairs = RopePairs::halves,
     .activation = Activation::silu,
     .qk_norm = true},
    {.name = "qwen3moe",
     .rope_pairs = RopePairs::halves,
     .activation = Activation::silu,
     .qk_norm = true,
     .needs_experts = true,
     .experts = true},
    {.name = "gemma3",
     .rope_pairs = RopePairs::halves,
     .activation = Activation::gelu,
     .qk_norm = true,
     .post_norms = true,
     .scaled_embedding = true,
     .alternating_window = true,
     .partial_rope = true,
     .scaled_query = true},
    {.name = "phi3",
     .rope_pairs = RopePairs::halves,
     .activation = Activation::silu,
     .fused_qkv = true,
     .fused_gate_up = true,
     .partial_rope = true,
     .rope_factors = true,
     .scaled_query = true},
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

// Architectures as data: one table row each. The forward pass (compute/forward.cpp) reads a row, it
// never asks for an architecture's name. Where presence of a tensor says it all (biases, an untied
// output layer, experts), the file decides and no column exists.
//
// Source of the rows: llama.cpp v0.5.0, src/models/*.cpp, which the parity tests compare with.
#pragma once

#include <span>
#include <string_view>

namespace prima::model {

enum class RopePairs {
  adjacent,  // (x0, x1), (x2, x3), ...: llama
  halves,    // (x0, xn/2), (x1, xn/2+1), ...: neox
};

enum class Activation { silu, gelu };

struct Architecture {
  std::string_view name;  // the GGUF's general.architecture
  RopePairs rope_pairs;
  Activation activation;       // of the gate, multiplied by `up`
  bool fused_qkv = false;      // attn_qkv holds q, k and v, rows in this order
  bool fused_gate_up = false;  // ffn_up holds gate and up, rows in this order
  bool qk_norm = false;        // RMS norm of each head of q and k, before rope
  bool post_norms = false;  // RMS norm after attention and after feed-forward, before the residual
  bool scaled_embedding = false;    // embeddings are multiplied by sqrt(n_embd)
  bool alternating_window = false;  // sliding_window applies to all but every 6th layer
  bool needs_experts = false;       // every layer has experts
  bool experts = false;             // may have experts
  bool partial_rope = false;        // fewer elements than a head has may rotate
  bool biases = false;              // attention output and feed-forward may have biases
  bool rope_factors = false;  // rope factors (one set, or long and short ones) are used if present
  bool scaled_query = false;  // q is scaled before it is rounded to f16, not q.k after
};

std::span<const Architecture> architectures();

// nullptr if there is no such row.
const Architecture* find_architecture(std::string_view name);

}  // namespace prima::model

// What the planner needs to know of a model: classes of equal layers with their true bytes, in
// order, and the output layer as a pseudo-layer of the head. Made from a ModelFile
// (model_shape_of.h), a name (named_shapes.h) or by hand.
//
// The token embedding is a pseudo-layer of no weight: a token needs one row of it, a few kilobytes,
// which is read where it lies. Where it is tied to the output layer, output_bytes counts it.
//
// Value types; thread-compatible.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/units.h"

namespace prima::plan {

struct LayerClass {
  std::string name;        // "Q4_K 109 MiB", for people
  Bytes dense_bytes = 0;   // weights that every token needs
  Bytes expert_bytes = 0;  // of one expert; 0 in dense layers
  std::uint32_t n_expert = 0;
  std::uint32_t n_expert_used = 0;
  Bytes kv_bytes_per_token = 0;
  std::uint32_t window_tokens = 0;  // of a sliding window; 0: the whole context
  // What is streamed as one, in order of use, in whole blocks of a file; empty: cut into pieces of
  // ModelShape::piece_bytes.
  std::vector<Bytes> stages{};
  std::uint64_t active_parameters = 0;  // multiplied for each token; for layer times from ratings
};

struct ModelShape {
  std::string name;
  std::vector<LayerClass> classes;
  std::vector<std::uint16_t> layers;  // class of each layer, in order
  Bytes output_bytes = 0;             // output norm and matrix
  std::vector<Bytes> output_stages;   // as LayerClass::stages
  std::uint64_t output_parameters = 0;
  std::uint32_t n_embd = 0;
  std::uint32_t n_ctx_train = 0;  // 0: unknown
  Bytes piece_bytes = 8 * kMiB;   // the most that is streamed into one slot
  // On every device that was described rather than measured: the program, and compute buffers for
  // steps of kProfiledStepTokens.
  Bytes program_bytes = 64 * kMiB;
  Bytes buffer_bytes = 0;
  // Of a GPU's memory, beside layers (compute/gpu.h): for each token of a step; whatever the step;
  // and the largest matrix in half precision, which layers of prompts may need.
  Bytes gpu_activation_bytes = 0;
  Bytes gpu_scratch_bytes = 0;
  Bytes gpu_matrix_bytes = 0;
};

// Fails with invalid_argument, naming the first thing that can't be.
Status validate(const ModelShape& shape);

// The layers of each class.
std::vector<std::vector<std::uint32_t>> layers_by_class(const ModelShape& shape);

// Weights of a layer, all experts counted.
Bytes weight_bytes(const LayerClass& layer);
Bytes weight_bytes(const ModelShape& shape);  // of the layers and the output layer

// The share of the experts' bytes that a step of `tokens` tokens is expected to need, each token
// choosing n_expert_used of n_expert independently and evenly: 1 - (1 - used/n)^tokens.
double expert_read_ratio(const LayerClass& layer, double tokens);
double expected_read_bytes(const LayerClass& layer, double tokens);

// KV cache of a layer for a context of n_ctx tokens.
Bytes kv_bytes(const LayerClass& layer, std::uint32_t n_ctx);
Bytes kv_bytes(const ModelShape& shape, std::uint32_t n_ctx);

// Pieces that `bytes` of a layer are cut into for streaming: equal, none above piece_bytes.
std::uint32_t piece_count(Bytes bytes, Bytes piece_bytes);

// Compute buffers for steps of kProfiledStepTokens: the two widest activations, and the logits of a
// token.
Bytes default_buffer_bytes(std::uint32_t n_embd, std::uint32_t n_ff, std::uint32_t n_vocab);

}  // namespace prima::plan

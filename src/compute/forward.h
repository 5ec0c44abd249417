// The forward pass as ggml graphs, to be read from top to bottom. One function for every
// architecture: a row of model/architecture.h and the tensors present decide.
//
// Weights are used as they are, never through views: a streamed weight's data moves.
//
// Thread-compatible; builds only, computes nothing.
#pragma once

#include <ggml.h>

#include "compute/executor.h"
#include "compute/kv_cache.h"
#include "model/hyperparameters.h"
#include "weights/weights.h"

namespace prima::compute {

// Tensors that are filled before each computation. Null where the graph has no use for them.
struct ForwardInputs {
  ggml_tensor* hidden = nullptr;         // (n_embd, n_tokens) f32
  ggml_tensor* positions = nullptr;      // (n_tokens) i32
  ggml_tensor* cells = nullptr;          // (n_tokens) i64
  ggml_tensor* mask = nullptr;           // (n_kv, n_tokens) f16
  ggml_tensor* mask_windowed = nullptr;  // (n_kv, n_tokens) f16; layers with a sliding window
  ggml_tensor* outputs = nullptr;        // (n_outputs) i32; null where all tokens go on
};

struct ForwardShape {
  enum class Output { logits, embeddings };

  LayerRange layers;
  std::uint32_t n_tokens = 0;
  std::uint32_t n_kv = 0;
  std::uint32_t n_outputs = 0;     // of the model's last layer; n_tokens elsewhere
  Output output = Output::logits;  // of the output layer

  friend bool operator==(const ForwardShape&, const ForwardShape&) = default;
};

struct ForwardModel {
  const model::Hyperparameters& hyperparameters;
  const weights::Weights& weights;
  const KvCache& kv_cache;
  std::uint32_t n_ctx;  // decides between Phi 3's rope factors
};

// Adds the layers' nodes to `graph` and returns the hidden state after them, (n_embd, n_tokens) or
// (n_embd, n_outputs); null if the last layer has no outputs, where only keys and values are
// wanted.
ggml_tensor* build_layers(ggml_context* context, ggml_cgraph* graph, const ForwardModel& model,
                          const ForwardShape& shape, ForwardInputs& inputs);

// Only inputs.hidden (n_embd, n_outputs) is used; returns logits (n_vocab, n_outputs), or what they
// are made of, (n_embd, n_outputs).
ggml_tensor* build_output(ggml_context* context, ggml_cgraph* graph, const ForwardModel& model,
                          const ForwardShape& shape, ForwardInputs& inputs);

}  // namespace prima::compute

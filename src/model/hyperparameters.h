// A model's numbers, read from a GGUF's metadata and checked.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"
#include "model/architecture.h"
#include "model/gguf.h"

namespace prima::model {

// Embeddings, vocabularies and the like beyond this are taken for damage.
inline constexpr std::uint32_t kLargestDimension = 1u << 24;

// How the hidden states of a text's tokens become its embedding.
enum class Pooling {
  mean,
  first,  // of the first token
  last,   // of the last token
  rank,   // into a score: the model compares texts, it has no embeddings
};

enum class RopeScaling { none, linear, yarn, longrope };

struct Rope {
  std::uint32_t n_rot = 0;  // leading elements of a head that rotate
  float frequency_base = 10000.0f;
  float frequency_base_windowed = 10000.0f;  // in layers with a sliding window
  RopeScaling scaling = RopeScaling::none;
  float frequency_scale = 1.0f;      // 1 / the scaling factor; layers without a sliding window
  float attention_factor = 1.0f;     // of the rotated elements; YaRN's own correction divided out
  std::uint32_t n_ctx_original = 0;  // context before scaling
  float yarn_ext_factor = 0.0f;      // 1 for YaRN, else 0
  float yarn_beta_fast = 32.0f;
  float yarn_beta_slow = 1.0f;
};

struct Hyperparameters {
  const Architecture* architecture = nullptr;  // never null in an opened model
  std::uint32_t n_layer = 0;
  std::uint32_t n_ctx_train = 0;
  std::uint32_t n_embd = 0;
  std::uint32_t n_vocab = 0;
  std::uint32_t n_head = 0;
  std::uint32_t n_head_kv = 0;
  std::uint32_t head_dim = 0;  // of k and v; q has the same
  std::uint32_t n_ff = 0;      // 0 where every layer has experts
  std::uint32_t n_expert = 0;  // 0 for dense models
  std::uint32_t n_expert_used = 0;
  std::uint32_t n_ff_expert = 0;
  std::uint32_t n_swa = 0;  // sliding window in tokens; 0: none
  std::uint32_t swa_period =
      1;  // layer il has a sliding window if n_swa and il % period < period-1
  float rms_epsilon = 0.0f;
  float attention_scale = 0.0f;      // of q.k, before the softmax
  float final_logit_softcap = 0.0f;  // 0: none
  float expert_weights_scale = 1.0f;
  Pooling pooling = Pooling::mean;  // what the model was made for, where its file says so
  Rope rope;

  std::uint32_t n_embd_q() const { return n_head * head_dim; }
  std::uint32_t n_embd_kv() const { return n_head_kv * head_dim; }
  bool has_sliding_window(std::uint32_t layer) const {
    return n_swa > 0 && layer % swa_period < swa_period - 1;
  }
};

// What llama.cpp v0.5.0 derives from the same metadata, or an error that names `file_name`, the key
// and the remedy. n_vocab is the number of the tokenizer's tokens.
Result<Hyperparameters> read_hyperparameters(std::string_view file_name, const Metadata& metadata);

}  // namespace prima::model

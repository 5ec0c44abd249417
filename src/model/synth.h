// Synthetic models: random weights in any shape of any supported architecture, as files that Prima
// and llama.cpp load and run. Written at disk speed, in constant memory, the same for the same
// options; whole or not at all.
//
// Their activations are of the size that trained models have, their logits spread by about 2, and
// what they say depends on the prompt, though it means nothing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "base/result.h"
#include "base/units.h"
#include "model/mixture.h"

namespace prima::model {

enum class SynthRopeScaling { none, linear, yarn, llama3, longrope };

struct SynthOptions {
  std::string architecture = "llama";
  std::uint32_t n_layer = 4;
  std::uint32_t n_embd = 256;
  std::uint32_t n_ff = 0;  // 0: 2.75 n_embd, rounded up to 256
  std::uint32_t n_head = 4;
  std::uint32_t n_head_kv = 0;  // 0: as n_head
  std::uint32_t head_dim = 0;   // 0: n_embd / n_head
  std::uint32_t n_vocab = 512;
  std::uint32_t n_ctx = 4096;
  std::uint32_t n_expert = 0;
  std::uint32_t n_expert_used = 0;  // 0: 2, if there are experts
  std::uint32_t n_ff_expert = 0;    // 0: as n_ff
  std::uint32_t n_swa = 0;          // gemma3's sliding window
  std::uint32_t n_rot = 0;          // 0: head_dim
  bool tied = false;                // the embedding is the output layer too
  bool biases = false;              // all that the architecture allows; qwen2 has its own always
  float rope_base = 10000.0f;
  SynthRopeScaling rope_scaling = SynthRopeScaling::none;
  float rope_factor = 1.0f;               // by how much the context was stretched
  std::uint32_t rope_n_ctx_original = 0;  // 0: n_ctx / rope_factor
  std::string mixture = "Q4_K_M";
  bool pure = false;
  std::uint64_t seed = 1;
};

// Called now and then while a file is written; false ends the writing with the error `cancelled`,
// and nothing stays behind.
using SynthProgress = std::function<bool(Bytes written, Bytes total)>;

struct SynthResult {
  Bytes file_size = 0;
  std::uint64_t n_tensors = 0;
};

// Writes a model of `options` to `path`, over a file that is there.
Result<SynthResult> synthesize(const SynthOptions& options, const std::filesystem::path& path,
                               const SynthProgress& progress = nullptr);

// Writes to `path` the model in `source` with random layers after its own, `n_layer` in all, whose
// attention output and feed-forward down projections are zero: at any size, it says exactly what
// `source` says. New layers have the types of source's, in turn.
Result<SynthResult> extend_model(const std::filesystem::path& source, std::uint32_t n_layer,
                                 std::uint64_t seed, const std::filesystem::path& path,
                                 const SynthProgress& progress = nullptr);

}  // namespace prima::model

// Prompts on a GPU: steps of many tokens compute the processor's layers on a GPU too, whose memory
// they visit one after another (visiting_layers.h). A whole layer goes over, attention with it, and
// the KV cache stays at home, so what follows a prompt may be computed anywhere.
//
// Copying a layer takes as long for one token as for many, so this pays from some number of tokens
// on. That number is measured when it is made, with a layer of the model, on both processors; it
// stays, so that equal prompts are computed equally.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "compute/executor.h"
#include "compute/kv_cells.h"
#include "compute/layer_device.h"
#include "compute/visiting_layers.h"
#include "model/model_file.h"

namespace prima::compute {

// Fewer are no prompt but decoding, for several sequences or drafts, which should not change
// kernels with its company.
inline constexpr std::uint32_t kFewestOffloadedTokens = 32;

// Tokens of the larger step that is measured: both processors are bound by arithmetic there.
inline constexpr std::uint32_t kManyTokens = 128;

// Two layers, so that one is copied while another is computed.
inline constexpr std::uint32_t kMostPlaces = 2;

// Seconds that a layer takes at two numbers of tokens, copies and all.
struct OffloadTimes {
  std::uint32_t few_tokens = 0;
  std::uint32_t many_tokens = 0;
  double processor_few = 0;
  double processor_many = 0;
  double gpu_few = 0;
  double gpu_many = 0;
};

// Some of a GPU's kernels multiply many tokens with the whole matrix in half precision: what the
// largest of these layers takes then.
Bytes half_precision_bytes(const model::ModelFile& model, const std::vector<int>& layers);

// From how many tokens, `few_tokens` to `most`, the GPU is faster, both times taken as linear in
// the tokens; nullopt: not at any of them.
std::optional<std::uint32_t> faster_from_tokens(const OffloadTimes& times, std::uint32_t most);

class PromptOffload {
 public:
  // Of the layers that `home` holds; options.offload_from_tokens has a value. `waited`: for weights
  // that home reads from disk, in all; not counted in what is measured. Takes seconds where it
  // measures. Fails with resource_exhausted, unsupported, or unavailable where the processor is
  // faster with every step. The model and home outlive this.
  static Result<std::unique_ptr<PromptOffload>> create(const model::ModelFile& model,
                                                       LayerDevice& home,
                                                       const ExecutorOptions& options,
                                                       const GpuRoom& gpu,
                                                       const std::function<Duration()>& waited);

  bool takes(std::uint32_t n_tokens) const { return n_tokens >= from_tokens_; }
  std::uint32_t from_tokens() const { return from_tokens_; }

  // As LayerDevice::run() of home. Leaves `hidden` as it was if it fails.
  Status run(LayerRange layers, const Step& step, const KvCells& cells, std::vector<float>& hidden);

  // Of the GPU.
  Bytes memory_bytes() const { return gpu_->memory_bytes(); }

 private:
  PromptOffload(const model::ModelFile& model, LayerDevice& home) : model_(model), home_(home) {}

  Status open(const ExecutorOptions& options, const GpuRoom& gpu, std::size_t n_places);
  Result<OffloadTimes> measure(const std::function<Duration()>& waited);

  const model::ModelFile& model_;
  LayerDevice& home_;
  std::unique_ptr<LayerDevice> gpu_;
  VisitingLayers* visitors_ = nullptr;  // gpu_'s weights
  std::uint32_t from_tokens_ = 0;
};

}  // namespace prima::compute

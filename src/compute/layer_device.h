// One processor that computes layers, the CPU or a GPU: its weights, its part of the KV cache, its
// graphs. A device of the ring has one for its CPU and one for each GPU in use.
//
// Graphs are built once per shape and reused. All of them share one compute buffer, as large as the
// largest needs, since only one is computed at a time.
//
// Thread-compatible.
#pragma once

#include <list>
#include <memory>
#include <span>
#include <vector>

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpp.h>

#include "compute/forward.h"
#include "compute/kv_cache.h"
#include "compute/kv_cells.h"
#include "compute/threads.h"
#include "weights/weights.h"

namespace prima::compute {

struct LayerDeviceOptions {
  ggml_backend_dev_t device = nullptr;
  std::vector<LayerRange> layers{};
  bool output_layer = false;
  std::uint32_t n_ctx = 0;
  std::uint32_t max_tokens = 0;
  ggml_type kv_type = GGML_TYPE_F16;
  int n_threads = 1;  // of a CPU
};

class LayerDevice {
 public:
  // `weights` lie in memory that the device computes with, and so does `kv_cache`; null: one is
  // made. The model must outlive this. Fails with resource_exhausted, and with unsupported where
  // the device lacks an operation.
  static Result<std::unique_ptr<LayerDevice>> create(const model::Hyperparameters& hyperparameters,
                                                     const LayerDeviceOptions& options,
                                                     std::unique_ptr<weights::Weights> weights,
                                                     std::unique_ptr<KvCache> kv_cache = nullptr);

  const LayerDeviceOptions& options() const { return options_; }
  const weights::Weights& weights() const { return *weights_; }
  const KvCache& kv_cache() const { return *kv_cache_; }
  bool is_processor() const {
    return ggml_backend_dev_type(options_.device) == GGML_BACKEND_DEVICE_TYPE_CPU;
  }

  // REQUIRES: the device has these layers; `cells` had the step applied. hidden: (n_embd,
  // n_tokens), becomes (n_embd, n_tokens), or (n_embd, n_outputs) after the model's last layer.
  Status run(LayerRange layers, const Step& step, const KvCells& cells, std::vector<float>& hidden);

  // hidden (n_embd, n_outputs) -> logits (n_vocab, n_outputs).
  Status logits(std::span<const float> hidden, std::vector<float>& logits);

  // hidden (n_embd, n_outputs) -> the same after the output layer's norm.
  Status embeddings(std::span<const float> hidden, std::vector<float>& embeddings);

  void rest();

  // Executor::keep_weights().
  void keep_weights(bool keep) { keep_weights_ = keep; }
  void release_kept();

  // For another device that computes these layers with these weights: keeps for the next step what
  // run() would.
  Status acquire(weights::StageIndex stage);
  void release(weights::StageIndex stage);
  void keep_only(LayerRange layers);

  Bytes weight_bytes() const { return weights_->memory_bytes(); }
  Bytes kv_cache_bytes() const { return kv_cache_->size_bytes(); }
  Bytes compute_buffer_bytes() const;
  // All three.
  Bytes memory_bytes() const { return weight_bytes() + kv_cache_bytes() + compute_buffer_bytes(); }

 private:
  // A part of a graph between two waits for streamed weights.
  struct Piece {
    ggml_cgraph* graph = nullptr;
    std::vector<weights::StageIndex> acquire;  // before it
    std::vector<weights::StageIndex> release;  // after it
  };

  // A graph whose tensors have memory, ready to be computed again and again.
  struct BuiltGraph {
    ForwardShape shape;  // without layers: the output layer's
    ggml_context_ptr context;
    ggml_context_ptr pieces_context;
    ggml_cgraph* graph = nullptr;
    ForwardInputs inputs;
    ggml_tensor* output = nullptr;
    std::vector<Piece> pieces;
    std::uint64_t cut_for = 0;  // the weights' residency_version()
  };

  LayerDevice(const model::Hyperparameters& hyperparameters, const LayerDeviceOptions& options,
              std::unique_ptr<weights::Weights> weights);

  // The output layer, or the beginning of it, in as many pieces as memory asks for: rows of
  // `width`.
  Status compute_output(std::span<const float> hidden, ForwardShape::Output kind, std::size_t width,
                        std::vector<float>& result);
  Result<BuiltGraph*> find_or_build(const ForwardShape& shape);
  BuiltGraph build(const ForwardShape& shape) const;
  void cut_into_pieces(BuiltGraph& built) const;
  Status allocate(BuiltGraph& built);
  Status check_operations(const BuiltGraph& built) const;
  Status reserve();
  Status compute(BuiltGraph& built);
  Status compute_pieces(const BuiltGraph& built, std::vector<weights::StageIndex>& held);
  void set_inputs(const BuiltGraph& built, const Step& step, const KvCells& cells,
                  std::span<const float> hidden);

  const model::Hyperparameters& hyperparameters_;
  LayerDeviceOptions options_;
  ggml_backend_ptr backend_;
  std::unique_ptr<ComputeThreads> threads_;  // of a CPU
  std::unique_ptr<weights::Weights> weights_;
  std::unique_ptr<KvCache> kv_cache_;
  ggml_gallocr_ptr allocator_;
  std::list<BuiltGraph> graphs_;  // most recently used first
  std::vector<std::uint16_t> mask_;
  // Stages that stay acquired for the next step through `kept_layers_` (none: the output layer).
  bool keep_weights_ = false;
  LayerRange kept_layers_;
  std::vector<weights::StageIndex> kept_;
};

}  // namespace prima::compute

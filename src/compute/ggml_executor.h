// The Executor on ggml's CPU backend.
#pragma once

#include <list>
#include <memory>
#include <vector>

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpp.h>

#include "compute/executor.h"
#include "compute/forward.h"
#include "compute/kv_cache.h"
#include "compute/kv_cells.h"
#include "compute/threads.h"
#include "weights/weights.h"

namespace prima::compute {

class GgmlExecutor final : public Executor {
 public:
  static Result<std::unique_ptr<GgmlExecutor>> create(const model::ModelFile& model,
                                                      const ExecutorOptions& options,
                                                      const LoadProgress& progress);

  Status embed(std::span<const std::int32_t> tokens, std::vector<float>& hidden) override;
  Status begin(const Step& step) override;
  Status run(LayerRange layers, const Step& step, std::vector<float>& hidden) override;
  Status logits(std::span<const float> hidden, std::vector<float>& logits) override;
  void clear() override;
  void rest() override;
  ExecutorMemory memory() const override;

 private:
  // A part of a graph between two waits for streamed weights.
  struct Piece {
    ggml_cgraph* graph = nullptr;
    std::vector<weights::StageIndex> acquire;  // before it
    std::vector<weights::StageIndex> release;  // after it
  };

  // A graph whose tensors have memory, ready to be computed again and again.
  struct BuiltGraph {
    ForwardShape shape;
    ggml_context_ptr context;
    ggml_context_ptr pieces_context;
    ggml_cgraph* graph = nullptr;
    ForwardInputs inputs;
    ggml_tensor* output = nullptr;
    std::vector<Piece> pieces;
  };

  GgmlExecutor(const model::ModelFile& model, const ExecutorOptions& options);

  ForwardModel forward_model() const;
  Status check_window(LayerRange layers) const;

  // The cached graph of this shape, built now if there is none.
  Result<BuiltGraph*> window_graph(const ForwardShape& shape);
  Result<BuiltGraph*> output_graph(std::uint32_t n_outputs);
  BuiltGraph new_graph(const ForwardShape& shape) const;
  void build_window(BuiltGraph& built) const;
  void build_output_layer(BuiltGraph& built) const;
  void cut_into_pieces(BuiltGraph& built) const;
  Status allocate(BuiltGraph& built);
  Status reserve();
  Status compute(BuiltGraph& built);
  void set_inputs(const BuiltGraph& built, const Step& step, std::span<const float> hidden);

  const model::ModelFile& model_;
  ExecutorOptions options_;
  std::unique_ptr<weights::Weights> weights_;
  std::unique_ptr<KvCache> kv_cache_;
  KvCells cells_;
  ggml_backend_ptr backend_;
  std::unique_ptr<ComputeThreads> threads_;
  ggml_gallocr_ptr allocator_;
  std::list<BuiltGraph> graphs_;  // most recently used first
  std::vector<std::uint16_t> mask_;
};

}  // namespace prima::compute

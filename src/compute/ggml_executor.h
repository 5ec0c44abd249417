// The Executor on ggml's backends: the CPU's layers and, where asked for, GPUs'.
#pragma once

#include <memory>
#include <vector>

#include "compute/executor.h"
#include "compute/gpu.h"
#include "compute/kv_cells.h"
#include "compute/layer_device.h"
#include "compute/prompt_offload.h"
#include "weights/pressure.h"
#include "weights/streamed_weights.h"

namespace prima::compute {

class GgmlExecutor final : public Executor {
 public:
  static Result<std::unique_ptr<GgmlExecutor>> create(const model::ModelFile& model,
                                                      const ExecutorOptions& options,
                                                      const LoadProgress& progress);

  Status embed(std::span<const std::int32_t> tokens, std::vector<float>& hidden) override;
  Status begin(const Step& step) override;
  Status run(LayerRange layers, const Step& step, std::vector<float>& hidden) override;
  void keep_weights(bool keep) override;
  void set_idle_work(IdleWork* work) override;
  WeightReads weight_reads() const override;
  Status logits(std::span<const float> hidden, std::vector<float>& logits) override;
  Status embeddings(std::span<const float> hidden, std::vector<float>& embeddings) override;
  void clear() override;
  void rest() override;
  ExecutorMemory memory() const override;

 private:
  GgmlExecutor(const model::ModelFile& model, const ExecutorOptions& options);

  Status add_gpu(const GpuPlacement& placement, const LoadProgress& progress);
  Status add_cpu(const LoadProgress& progress);
  Status add_streamed(const LayerDeviceOptions& options, const LoadProgress& progress);
  weights::WeightLayout use_store(const weights::WeightLayout& layout);
  bool fits_with_ease(const LayerDeviceOptions& options) const;
  Bytes output_layer_bytes() const;
  double share_of_model() const;
  void yield_memory_to_others();
  void add_prompt_offload();
  Bytes gpu_memory_left(const GpuInfo& gpu) const;
  Status run_on(LayerDevice& device, LayerRange layers, const Step& step,
                std::vector<float>& hidden);
  Status add(const LayerDeviceOptions& options, std::unique_ptr<weights::Weights> weights);
  Status check_windows() const;
  Status check_held(LayerRange layers) const;
  Status check_output(std::span<const float> hidden) const;

  const model::ModelFile& model_;
  ExecutorOptions options_;
  KvCells cells_;
  std::vector<std::unique_ptr<LayerDevice>> devices_;
  std::vector<LayerDevice*> device_of_layer_;             // null: another device of the ring has it
  std::unique_ptr<PromptOffload> prompt_offload_;         // of the processor's layers; null: none
  LayerDevice* output_device_ = nullptr;                  // null at a worker
  ggml_tensor* embedding_ = nullptr;                      // null at a worker
  weights::StreamedWeights* streamed_weights_ = nullptr;  // the CPU's, if within a memory budget
  std::unique_ptr<weights::StoreWriter> store_writer_;    // null: nothing to write
  std::unique_ptr<weights::GoodNeighbour> good_neighbour_;  // after what it works on
};

}  // namespace prima::compute

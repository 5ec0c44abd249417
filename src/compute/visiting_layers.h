// Layers of the processor that a GPU computes for one step: their weights and their part of the KV
// cache are copied into its memory one layer after another, and new keys and values back. At home,
// with the processor, stays the truth of both.
//
//     at home --acquire: weights and KV cells in--> in use --release: new KV rows out--> at home
//
// A stage is a layer. Layers take turns in one or two places; with two, the next is copied while
// one is computed (prefetch). A layer whose weights are still there is not copied again, but its KV
// cells are.
//
// Weights that the processor holds as they lie in the file are copied from its memory, resident or
// from a slot; those in a layout of its own are read from the model's file.
//
// Thread-compatible.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <ggml-backend.h>
#include <ggml-cpp.h>

#include "base/result.h"
#include "compute/kv_cache.h"
#include "compute/layer_device.h"
#include "compute/step.h"
#include "model/model_file.h"
#include "weights/mapped_file.h"
#include "weights/weights.h"

namespace prima::compute {

class VisitingLayers final : public weights::Weights {
 public:
  // `home` holds the layers, `kv_cache` has a place for each of `n_places` layers at a time in the
  // memory of `device`; both outlive this. `drop_file_pages`: what is read of the model's file
  // does not stay in memory. Fails with resource_exhausted and io.
  static Result<std::unique_ptr<VisitingLayers>> create(const model::ModelFile& model,
                                                        LayerDevice& home, const KvCache& kv_cache,
                                                        ggml_backend_dev_t device,
                                                        std::size_t n_places, bool drop_file_pages);

  // For all stages acquired from now on; none is in use. The step outlives their use.
  void set_step(const Step& step);

  // The next use of each layer copies its weights again.
  void forget();

  std::span<ggml_tensor* const> parts(model::TensorRole role, int layer) const override;
  std::optional<weights::StageIndex> streamed_stage(const ggml_tensor* weight) const override;
  bool is_streamed(weights::StageIndex) const override { return true; }
  Status acquire(weights::StageIndex layer) override;
  void release(weights::StageIndex layer) override;
  void prefetch(weights::StageIndex layer) override;
  Bytes memory_bytes() const override { return ggml_backend_buffer_get_size(buffer_.get()); }

 private:
  // Where bytes of a tensor come from: a part of it at home.
  struct Source {
    const ggml_tensor* part = nullptr;
    ggml_tensor* target = nullptr;
    Bytes offset = 0;                          // in the target
    std::optional<weights::StageIndex> stage;  // at home
    const model::TensorInfo* file = nullptr;   // where it is not plain at home
  };

  struct Layer {
    std::vector<ggml_tensor*> tensors;
    std::vector<Source> sources;  // in the order in which home streams them
    std::size_t place = 0;
  };

  struct Place {
    std::optional<weights::StageIndex> weights_of;
    std::optional<weights::StageIndex> cells_of;  // for this step
    bool in_use = false;
  };

  VisitingLayers(const model::ModelFile& model, LayerDevice& home, const KvCache& kv_cache,
                 bool drop_file_pages)
      : model_(model), home_(home), kv_cache_(kv_cache), drop_file_pages_(drop_file_pages) {}

  void make_tensors(std::size_t n_places);
  Status place_tensors(ggml_backend_buffer_type_t type, std::size_t n_places);
  Status find_sources();
  Status bring(weights::StageIndex layer);
  Status copy_weights(const std::vector<Source>& sources);
  Status copy_from_file(const Source& source);
  void copy_cells_in(weights::StageIndex layer) const;
  void copy_rows_out(weights::StageIndex layer) const;

  const model::ModelFile& model_;
  LayerDevice& home_;
  const KvCache& kv_cache_;
  const bool drop_file_pages_;
  const Step* step_ = nullptr;
  ggml_context_ptr context_;
  ggml_backend_buffer_ptr buffer_;
  std::map<std::pair<model::TensorRole, int>, ggml_tensor*> tensors_;
  std::map<const ggml_tensor*, weights::StageIndex> layer_of_;
  std::map<weights::StageIndex, Layer> layers_;
  Layer of_all_layers_;  // small, and always there: rope factors
  std::vector<Place> places_;
  std::vector<std::unique_ptr<weights::MappedFile>> files_;  // of the model; null if unused
  std::vector<std::byte> read_buffer_;
};

}  // namespace prima::compute

// Keys and values of the layers that a device runs: per layer one row of n_embd_kv per cell.
// On a CPU, memory is taken as cells are written, not at the start.
//
// Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include <ggml-backend.h>
#include <ggml-cpp.h>

#include "base/result.h"
#include "base/units.h"
#include "compute/executor.h"
#include "model/hyperparameters.h"

namespace prima::compute {

// Keys and values of one layer for so many cells, without padding.
inline Bytes kv_bytes_per_layer(const model::Hyperparameters& hyperparameters, ggml_type type,
                                std::uint32_t n_cells) {
  return 2 * Bytes{n_cells} * ggml_row_size(type, hyperparameters.n_embd_kv());
}

class KvCache {
 public:
  static constexpr std::size_t kAllLayers = std::numeric_limits<std::size_t>::max();

  // Fails with invalid_argument where the type does not fit the model's heads, and with
  // resource_exhausted. `n_places`: where fewer than layers, these take turns in them, each in the
  // place after the one before; what they leave there is lost.
  static Result<std::unique_ptr<KvCache>> create(const model::Hyperparameters& hyperparameters,
                                                 std::span<const LayerRange> windows,
                                                 ggml_type type, std::uint32_t n_cells,
                                                 ggml_backend_dev_t device,
                                                 std::size_t n_places = kAllLayers);

  ggml_tensor* keys(std::uint32_t layer) const {
    return layers_[layer].keys;
  }  // (n_embd_kv, n_cells)
  ggml_tensor* values(std::uint32_t layer) const {
    return layers_[layer].values;
  }  // (n_embd_kv, n_cells)
  Bytes size_bytes() const { return size_bytes_; }

 private:
  struct Layer {
    ggml_tensor* keys = nullptr;
    ggml_tensor* values = nullptr;
  };
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };

  KvCache() = default;
  Status allocate_on_cpu(Bytes size);

  std::vector<Layer> layers_;  // by layer of the model; null where another device has it
  std::unique_ptr<void, Free> memory_;
  ggml_context_ptr context_;
  ggml_backend_buffer_ptr buffer_;
  Bytes size_bytes_ = 0;
};

}  // namespace prima::compute

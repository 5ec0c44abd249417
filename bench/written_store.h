// A layer store of a whole model, for benchmarks of what is computed from one. Not thread-safe.
#pragma once

#include <filesystem>

#include "base/result.h"
#include "compute/executor.h"
#include "model/model_file.h"
#include "weights/layer_store.h"
#include "weights/weight_layout.h"

namespace prima::bench {

// Writes into the folder what is not there yet. Fails with io, resource_exhausted.
inline Result<weights::LayerStoreOptions> written_store(const model::ModelFile& model,
                                                        const std::filesystem::path& folder) {
  const weights::LayerStoreOptions options{.root = folder,
                                           .model_identity = weights::file_identity(model)};
  PRIMA_ASSIGN_OR_RETURN(auto store, weights::LayerStore::open(options));
  PRIMA_RETURN_IF_ERROR(store.write(weights::gguf_layout(
      model, {.layers = compute::layers_of({{0, model.hyperparameters().n_layer}}),
              .embedding = true,
              .output = true})));
  return options;
}

}  // namespace prima::bench

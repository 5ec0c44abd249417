// All weights of a device in memory, the processor's or a GPU's.
//
// Tensors that ggml computes fastest in a layout of its own for this processor are repacked once,
// into memory of their own; all others are mapped from the model file, so that the system can take
// their pages back.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include <ggml-backend.h>

#include "base/result.h"
#include "model/model_file.h"
#include "weights/weights.h"

namespace prima::weights {

struct ResidentRequest {
  std::vector<int> layers;
  bool embedding = false;
  bool output = false;  // with its norm
  bool repack = true;
  // All of them are copied into buffers of this type, a GPU's; null: mapped or repacked.
  ggml_backend_buffer_type_t buffer_type = nullptr;
};

// `progress`: bytes done, bytes in all; returning false cancels. Fails with io, resource_exhausted,
// cancelled.
Result<std::unique_ptr<Weights>> load_resident_weights(
    const model::ModelFile& model, const ResidentRequest& request,
    const std::function<bool(Bytes, Bytes)>& progress);

}  // namespace prima::weights

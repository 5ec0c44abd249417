// The planner's view of a model file.
#pragma once

#include "model/model_file.h"
#include "plan/model_shape.h"

namespace prima::plan {

// Layers with the same bytes, experts, KV cache and window are one class. `kv_bytes_per_element`: 2
// for an F16 cache, 34/32 for Q8_0.
ModelShape shape_of(const model::ModelFile& file, double kv_bytes_per_element = 2);

}  // namespace prima::plan

// In which layout a weight is computed with: as it lies in the file, or repacked for this
// processor.
//
// Thread-safe.
#pragma once

#include <ggml-backend.h>

#include "model/model_file.h"

namespace prima::weights {

// The buffer type that the weight should live in: ggml's plain CPU buffer, or one of its extra
// types whose kernels are faster for this tensor in its role (CPU_REPACK and the like).
ggml_backend_buffer_type_t fastest_buffer_type(const model::TensorInfo& tensor,
                                               model::TensorRole role);

}  // namespace prima::weights

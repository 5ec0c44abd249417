// Shapes of well-known models, so that a cluster can be planned for without the file at hand.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "plan/model_shape.h"

namespace prima::plan {

// "llama-8b-q4_k" ... "llama-70b-q4_k", "qwen2.5-7b-q4_k" ..., "mixtral-8x7b-q4_k"; "-q4_k_m" for
// the mixture people download, "-q8_0", "-f16". Fails with not_found, listing the names.
Result<ModelShape> named_shape(std::string_view name);

std::vector<std::string> shape_names();

}  // namespace prima::plan

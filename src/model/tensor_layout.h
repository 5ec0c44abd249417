// Which tensors a model of given hyperparameters has, and their shapes. The loader checks files
// against it; the synthesizer writes what it says.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/gguf.h"
#include "model/hyperparameters.h"
#include "model/tensor_role.h"

namespace prima::model {

struct ExpectedTensor {
  TensorRole role = TensorRole::token_embedding;
  int layer = -1;  // -1 for roles of the whole model
  std::array<std::int64_t, 4> shape{1, 1, 1, 1};
  bool required = true;
};

// In file order: embedding, layers from first to last, then the output layer.
std::vector<ExpectedTensor> expected_tensors(const Hyperparameters& model);

// True for tensors that are added or multiplied elementwise (norms, biases, rope factors): always
// F32, never quantized.
bool is_elementwise(TensorRole role);

// Fails unless `tensors`, in any order, are those that the model needs, of shapes that fit it and
// types that ggml computes with. A tensor that no graph would use is an error too: leaving it out
// would silently give other answers than the model's.
Status check_tensors(std::string_view file_name, const Hyperparameters& model,
                     std::span<const GgufTensor> tensors);

}  // namespace prima::model

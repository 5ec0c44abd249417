// Which type each tensor of a quantized model has: one type throughout, or one of the mixtures that
// people download, chosen as llama.cpp's quantizer does (v0.5.0, src/llama-quant.cpp).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <ggml.h>

#include "base/result.h"
#include "model/hyperparameters.h"
#include "model/tensor_role.h"

namespace prima::model {

struct Mixture {
  std::string name;                // "Q4_K_M"
  ggml_type type = GGML_TYPE_F32;  // of most tensors
  bool pure = false;               // of all matrices, wherever it fits
};

// "Q4_K_M", or any type's name: "Q4_K", "IQ2_XXS", "BF16". Names that are both (Q4_0, Q2_K,
// IQ2_XXS) mean the mixture, unless `pure`.
Result<Mixture> parse_mixture(std::string_view text, bool pure);

std::vector<std::string> mixture_names();

// The type of one tensor. `tied`: the model has no output layer of its own. Rows that are no
// multiple of the chosen type's block get a type that fits.
ggml_type tensor_type(const Mixture& mixture, const Hyperparameters& model, TensorRole role,
                      int layer, std::int64_t columns, bool tied);

}  // namespace prima::model

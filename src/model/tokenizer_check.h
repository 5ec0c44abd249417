// Checks tokenizer metadata for everything that makes llama.cpp v0.5.0 abort, throw or read past an
// array when it loads or uses a vocabulary (src/llama-vocab.cpp).
#pragma once

#include <string_view>

#include "base/result.h"
#include "model/gguf.h"

namespace prima::model {

// Errors name `file_name`, the key and the remedy.
Status check_tokenizer(std::string_view file_name, const Metadata& metadata);

}  // namespace prima::model

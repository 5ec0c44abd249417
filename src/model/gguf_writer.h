// Writes the GGUF container: the counterpart of gguf.h.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "model/gguf.h"

namespace prima::model {

// Everything before the data section, padded to `alignment`, version 3. Sets each tensor's size,
// from its type and shape, and its offset from the start of the file.
// REQUIRES: shapes whose rows are a multiple of their type's block; metadata's general.alignment,
// if there is one, equal to `alignment`.
std::string encode_gguf_header(const Metadata& metadata, std::span<GgufTensor> tensors,
                               Bytes alignment = 32);

// The size of the whole file that `header` begins: every tensor padded to `alignment`.
Bytes gguf_file_size(std::string_view header, std::span<const GgufTensor> tensors,
                     Bytes alignment = 32);

}  // namespace prima::model

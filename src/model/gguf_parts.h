// The parts of the GGUF parser: gguf.cpp reads the header and calls these two in turn. Internal.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "model/gguf.h"
#include "model/gguf_cursor.h"

namespace prima::model {

Result<Metadata> parse_gguf_metadata(GgufCursor& cursor, std::uint64_t n_values);

// Offsets are still relative to the data section; place_gguf_tensors makes them absolute.
Result<std::vector<GgufTensor>> parse_gguf_directory(GgufCursor& cursor, std::uint64_t n_tensors);

// Checks that the tensors follow each other from gguf.data_offset on and lie inside the file.
Status place_gguf_tensors(std::string_view file_name, Bytes file_size, Gguf& gguf);

}  // namespace prima::model

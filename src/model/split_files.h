// The files that one model lies in: one, or the parts that llama-gguf-split made of it,
// "name-00001-of-00004.gguf" and so on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/gguf.h"

namespace prima::model {

struct SplitFile {
  std::filesystem::path path;
  Gguf gguf;
};

// The path of part `part` (from 0) of `count`; `prefix` is what stands before "-00001-of-".
std::filesystem::path split_path(const std::string& prefix, std::uint32_t part,
                                 std::uint32_t count);

// All parts, in order. `path` must be the first.
Result<std::vector<SplitFile>> read_split_files(const std::filesystem::path& path);

}  // namespace prima::model

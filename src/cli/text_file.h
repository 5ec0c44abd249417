// Texts that users give as files.
#pragma once

#include <cstdio>
#include <filesystem>
#include <string>

#include "base/result.h"

namespace prima::cli {

// The whole file. Fails with not_found, invalid_argument (a directory, or too large to be a text)
// or io, naming it.
Result<std::string> read_text_file(const std::filesystem::path& path);

Result<std::string> read_standard_input();

}  // namespace prima::cli

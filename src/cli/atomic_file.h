// Files that are there whole or not at all.
#pragma once

#include <filesystem>
#include <string_view>

#include "base/result.h"

namespace prima::cli {

// Whether write_atomically() could write `path`, asked before the work whose result it will hold.
Status check_writable(const std::filesystem::path& path);

// By way of a new file beside it, which takes its name once it is complete. What is no regular file
// (/dev/stdout) is written to directly. Fails with io, naming the path.
Status write_atomically(const std::filesystem::path& path, std::string_view content);

}  // namespace prima::cli

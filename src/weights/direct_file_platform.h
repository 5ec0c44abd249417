// What differs between POSIX systems in opening a file for direct reads: one implementation each in
// direct_file_linux.cpp and direct_file_macos.cpp, chosen by the build.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include <sys/stat.h>

#include "base/units.h"

namespace prima::weights::platform {

struct DirectOpen {
  int descriptor = -1;
  Bytes alignment = 4096;
};

// nullopt if the file cannot be opened, or its file system refuses direct reads.
std::optional<DirectOpen> open_direct(const std::filesystem::path& path);

std::int64_t modified_nanoseconds(const struct stat& status);

void forget_cached(int descriptor, Bytes offset, Bytes size);

}  // namespace prima::weights::platform

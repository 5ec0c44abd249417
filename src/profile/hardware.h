// What decides how fast this device is, as text: the key under which its profile is kept.
// Processor, threads, container limits of processor and disk, the build.
//
// Thread-safe.
#pragma once

#include <filesystem>
#include <string>

namespace prima::profile {

// `root`: where /proc and /sys begin; tests have their own.
std::string hardware_description(int n_threads, const std::filesystem::path& root = "/");

}  // namespace prima::profile

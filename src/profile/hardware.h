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

// 32 hexadecimal digits that stand for `text`: a short name of a long description.
std::string hashed(const std::string& text);

// The same at processes that draw on the same memory: on one computer since it was started, in one
// network and within the same cgroup that limits memory. A container or an emulated device has one
// of these to itself. A hash, which says nothing of the computer; empty where the system does not
// say, and then nothing is known to be shared.
std::string computer_identity(const std::filesystem::path& root = "/");

}  // namespace prima::profile

// How much memory this process may still take: what the system has, and what its cgroups allow.
//
// Thread-safe.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"
#include "base/units.h"

namespace prima::weights {

struct AvailableMemory {
  Bytes total = 0;      // of the machine, or of the cgroup that limits most
  Bytes available = 0;  // free, or held by pages that the system would give up (file cache)
  std::string limit;    // what decides: "memory", or the cgroup's folder
  std::string limiting_group{};  // the innermost cgroup with a limit of its own; empty: none has
};

// Linux: MemAvailable, and each cgroup (v1 or v2) from this process's own up to the root, less what
// is used in it and cannot be taken back. `root`: where /proc and the rest begin; tests have their
// own. Fails with unsupported where the system says nothing.
Result<AvailableMemory> available_memory(const std::filesystem::path& root = "/");

// Memory that this process takes now: heap, stacks, shared memory, and pages of its executable.
Bytes program_memory(const std::filesystem::path& root = "/");

}  // namespace prima::weights

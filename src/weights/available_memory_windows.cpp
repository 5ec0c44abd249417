#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
// psapi.h needs windows.h before it.
#include <psapi.h>

#include "weights/available_memory.h"

namespace prima::weights {

Result<AvailableMemory> available_memory(const std::filesystem::path&) {
  MEMORYSTATUSEX status{};
  status.dwLength = sizeof(status);
  if (!GlobalMemoryStatusEx(&status)) {
    return fail(ErrorCode::unsupported, "the system does not say how much memory it has",
                "Give --memory");
  }
  return AvailableMemory{status.ullTotalPhys, status.ullAvailPhys, "memory"};
}

Bytes program_memory(const std::filesystem::path&) {
  PROCESS_MEMORY_COUNTERS counters{};
  counters.cb = sizeof(counters);
  const BOOL known = GetProcessMemoryInfo(GetCurrentProcess(), &counters, sizeof(counters));
  return known ? counters.WorkingSetSize : 0;
}

}  // namespace prima::weights

// MemAvailable and cgroup limits, and the system's pressure stall information.
#include <filesystem>
#include <fstream>
#include <string>

#include "weights/available_memory.h"
#include "weights/pressure.h"

namespace prima::weights {
namespace {

// "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234" (microseconds); zero where there is none.
Duration stalled_so_far(const std::filesystem::path& pressure) {
  std::ifstream file(pressure);
  std::string line;
  std::getline(file, line);
  const auto at = line.find("total=");
  if (at == std::string::npos) return {};
  return std::chrono::microseconds(std::stoull(line.substr(at + 6)));
}

class LinuxMemoryWatch final : public MemoryWatch {
 public:
  Result<MemorySample> sample() override {
    PRIMA_ASSIGN_OR_RETURN(const AvailableMemory memory, available_memory());
    // Where a cgroup decides, stalls elsewhere say nothing of its memory. (Version 1 does not count
    // a group's own.)
    const std::filesystem::path pressure =
        memory.limit == "memory" ? "/proc/pressure/memory"
                                 : std::filesystem::path(memory.limit) / "memory.pressure";
    return MemorySample{.available = memory.available, .stalled = stalled_so_far(pressure)};
  }
};

}  // namespace

std::unique_ptr<MemoryWatch> system_memory_watch() { return std::make_unique<LinuxMemoryWatch>(); }

}  // namespace prima::weights

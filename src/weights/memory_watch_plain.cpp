// Where the system only says what is available.
#include "weights/available_memory.h"
#include "weights/pressure.h"

namespace prima::weights {
namespace {

class PlainMemoryWatch final : public MemoryWatch {
 public:
  Result<MemorySample> sample() override {
    PRIMA_ASSIGN_OR_RETURN(const AvailableMemory memory, available_memory());
    return MemorySample{.available = memory.available};
  }
};

}  // namespace

std::unique_ptr<MemoryWatch> system_memory_watch() { return std::make_unique<PlainMemoryWatch>(); }

}  // namespace prima::weights

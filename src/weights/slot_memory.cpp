#include "weights/slot_memory.h"

#include <utility>

namespace prima::weights {

SlotMemory::SlotMemory(SlotMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      capacity_(other.capacity_),
      mirrored_(other.mirrored_) {}

SlotMemory& SlotMemory::operator=(SlotMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(capacity_, other.capacity_);
  std::swap(mirrored_, other.mirrored_);
  return *this;
}

}  // namespace prima::weights

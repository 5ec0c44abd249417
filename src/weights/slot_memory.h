// The memory of the slots: a ring of bytes. Where the system can map memory twice, the ring appears
// a second time right after itself, so that a slot may run across its end and be contiguous all the
// same; then none of the memory is lost to stages that do not fit before the end.
//
// Movable value; thread-compatible.
#pragma once

#include <cstddef>

#include "base/result.h"
#include "base/units.h"

namespace prima::weights {

class SlotMemory {
 public:
  // `capacity` is rounded up to whole pages. Fails with resource_exhausted.
  static Result<SlotMemory> allocate(Bytes capacity);
  ~SlotMemory();
  SlotMemory(SlotMemory&& other) noexcept;
  SlotMemory& operator=(SlotMemory&& other) noexcept;
  SlotMemory(const SlotMemory&) = delete;
  SlotMemory& operator=(const SlotMemory&) = delete;

  std::byte* data() const { return data_; }  // aligned to kAlignment
  Bytes capacity() const { return capacity_; }
  bool mirrored() const { return mirrored_; }  // data()[capacity() + i] is data()[i]

  static constexpr Bytes kAlignment = 64 * kKiB;  // the largest page in use, and every disk's block

 private:
  SlotMemory() = default;

  std::byte* data_ = nullptr;
  Bytes capacity_ = 0;
  bool mirrored_ = false;
};

}  // namespace prima::weights

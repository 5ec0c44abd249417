#include <cerrno>
#include <cstring>

#include <sys/mman.h>
#include <unistd.h>

#include "weights/slot_memory.h"

namespace prima::weights {

namespace {

Error memory_error(Bytes capacity) {
  return Error{ErrorCode::resource_exhausted,
               "no " + format_bytes(capacity) + " of memory for slots: " + std::strerror(errno),
               "Give a smaller --memory"};
}

}  // namespace

Result<SlotMemory> SlotMemory::allocate(Bytes capacity) {
  SlotMemory memory;
  memory.capacity_ = align_up(std::max(capacity, Bytes{1}), kAlignment);
  memory.mirrored_ = true;
  const int descriptor = ::memfd_create("prima-slots", MFD_CLOEXEC);
  if (descriptor < 0 || ::ftruncate(descriptor, static_cast<off_t>(memory.capacity_)) != 0) {
    Error error = memory_error(memory.capacity_);
    if (descriptor >= 0) ::close(descriptor);
    return tl::unexpected(std::move(error));
  }
  // Reserve both halves and the alignment, then put the same memory into each.
  const Bytes reserved = 2 * memory.capacity_ + kAlignment;
  void* space =
      ::mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) {
    Error error = memory_error(memory.capacity_);
    ::close(descriptor);
    return tl::unexpected(std::move(error));
  }
  const auto start = reinterpret_cast<std::uintptr_t>(space);
  const std::uintptr_t first = align_up(start, kAlignment);
  if (first > start) ::munmap(space, first - start);
  const std::uintptr_t end = first + 2 * memory.capacity_;
  if (start + reserved > end) ::munmap(reinterpret_cast<void*>(end), start + reserved - end);
  bool mapped = true;
  for (int half = 0; half < 2 && mapped; ++half) {
    void* place = reinterpret_cast<void*>(first + half * memory.capacity_);
    mapped = ::mmap(place, memory.capacity_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                    descriptor, 0) == place;
  }
  memory.data_ = reinterpret_cast<std::byte*>(first);  // unmapped by the destructor in any case
  ::close(descriptor);
  if (!mapped) return tl::unexpected(memory_error(memory.capacity_));
  return memory;
}

SlotMemory::~SlotMemory() {
  if (data_ != nullptr) ::munmap(data_, 2 * capacity_);
}

}  // namespace prima::weights

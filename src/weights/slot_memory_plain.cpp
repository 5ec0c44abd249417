// Where memory is not mapped twice.
#include <new>

#include "weights/slot_memory.h"

namespace prima::weights {

Result<SlotMemory> SlotMemory::allocate(Bytes capacity) {
  SlotMemory memory;
  memory.capacity_ = align_up(std::max(capacity, Bytes{1}), kAlignment);
  void* bytes = ::operator new (memory.capacity_, std::align_val_t{kAlignment}, std::nothrow);
  if (bytes == nullptr) {
    return fail(ErrorCode::resource_exhausted,
                "no " + format_bytes(memory.capacity_) + " of memory for slots",
                "Give a smaller --memory");
  }
  memory.data_ = static_cast<std::byte*>(bytes);
  return memory;
}

SlotMemory::~SlotMemory() {
  if (data_ != nullptr) ::operator delete (data_, std::align_val_t{kAlignment});
}

}  // namespace prima::weights

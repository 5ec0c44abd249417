#include "transport/message.h"

#include <algorithm>
#include <cassert>

namespace prima::transport {

Bytes Payload::size() const {
  Bytes size = 0;
  for (const Piece& piece : pieces_) size += piece.bytes.size();
  return size;
}

void Payload::copy_to(std::span<std::byte> target) const {
  assert(target.size() == size());
  for (const Piece& piece : pieces_) {
    std::ranges::copy(piece.bytes, target.begin());
    target = target.subspan(piece.bytes.size());
  }
}

}  // namespace prima::transport

// A run of bytes in a file.
#pragma once

#include "base/units.h"

namespace prima {

struct ByteRange {
  Bytes offset = 0;
  Bytes size = 0;

  // REQUIRES: offset + size does not overflow (checked where ranges are read from files).
  constexpr Bytes end() const { return offset + size; }
  constexpr bool overlaps(const ByteRange& other) const {
    return offset < other.end() && other.offset < end();
  }
  friend constexpr bool operator==(const ByteRange&, const ByteRange&) = default;
};

}  // namespace prima

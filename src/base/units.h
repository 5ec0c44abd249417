// Byte counts, as people write and read them, and arithmetic on them that notices overflow.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace prima {

using Bytes = std::uint64_t;

inline constexpr Bytes kKiB = 1024;
inline constexpr Bytes kMiB = 1024 * kKiB;
inline constexpr Bytes kGiB = 1024 * kMiB;

// "512", "64K", "1.5G", "1 GiB" (powers of 1024); "300MB", "2 GB" (powers of 1000).
Result<Bytes> parse_bytes(std::string_view text);

// "1.50 GiB", "4.0 MiB", "17 B".
std::string format_bytes(Bytes bytes);

// Decimal, as disks and networks are rated: "300 MB/s", "1.90 GB/s".
std::string format_bytes_per_second(double bytes_per_second);

std::optional<Bytes> checked_add(Bytes a, Bytes b);
std::optional<Bytes> checked_multiply(Bytes a, Bytes b);

// `alignment` is a power of two.
constexpr Bytes align_up(Bytes bytes, Bytes alignment) {
  return (bytes + alignment - 1) & ~(alignment - 1);
}
constexpr Bytes align_down(Bytes bytes, Bytes alignment) { return bytes & ~(alignment - 1); }

}  // namespace prima

#include "base/units.h"

#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>

namespace prima {
namespace {

struct Suffix {
  std::string_view text;
  double factor;
};

constexpr Suffix kSuffixes[] = {
    {"", 1},
    {"B", 1},
    {"K", 1024},
    {"KIB", 1024},
    {"KB", 1e3},
    {"M", 1048576},
    {"MIB", 1048576},
    {"MB", 1e6},
    {"G", 1073741824.0},
    {"GIB", 1073741824.0},
    {"GB", 1e9},
    {"T", 1099511627776.0},
    {"TIB", 1099511627776.0},
    {"TB", 1e12},
};

std::string printed(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

}  // namespace

Result<Bytes> parse_bytes(std::string_view text) {
  const auto bad = [&] {
    return fail(ErrorCode::invalid_argument, "'" + std::string(text) + "' is not a size",
                "Write a number and a unit, such as 512M, 1.5G or 2 GiB");
  };
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !std::isfinite(number) || number < 0) return bad();

  std::string suffix;
  for (const char* at = end; at != text.data() + text.size(); ++at) {
    if (*at == ' ' && suffix.empty()) continue;
    suffix += static_cast<char>(std::toupper(static_cast<unsigned char>(*at)));
  }
  for (const Suffix& candidate : kSuffixes) {
    if (suffix != candidate.text) continue;
    const double bytes = number * candidate.factor;
    if (bytes >= 9.2e18) return bad();
    return static_cast<Bytes>(std::llround(bytes));
  }
  return bad();
}

std::string format_bytes(Bytes bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes < kKiB) return printed("%.0f B", value);
  if (bytes < kMiB) return printed("%.1f KiB", value / static_cast<double>(kKiB));
  if (bytes < kGiB) return printed("%.1f MiB", value / static_cast<double>(kMiB));
  return printed("%.2f GiB", value / static_cast<double>(kGiB));
}

std::string format_bytes_per_second(double bytes_per_second) {
  if (bytes_per_second < 1e6) return printed("%.1f kB/s", bytes_per_second / 1e3);
  if (bytes_per_second < 1e9) return printed("%.0f MB/s", bytes_per_second / 1e6);
  return printed("%.2f GB/s", bytes_per_second / 1e9);
}

std::optional<Bytes> checked_add(Bytes a, Bytes b) {
  if (a > std::numeric_limits<Bytes>::max() - b) return std::nullopt;
  return a + b;
}

std::optional<Bytes> checked_multiply(Bytes a, Bytes b) {
  if (b != 0 && a > std::numeric_limits<Bytes>::max() / b) return std::nullopt;
  return a * b;
}

}  // namespace prima

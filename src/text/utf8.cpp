#include "text/utf8.h"

#include <cstddef>
#include <cstdint>
#include <utility>

namespace prima::text {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// What a lead byte promises: the length, and the bounds of the second byte (Unicode, table 3-7).
struct Lead {
  std::size_t length = 0;  // 0: not a lead byte
  std::uint8_t second_min = 0x80;
  std::uint8_t second_max = 0xBF;
};

Lead classify(std::uint8_t byte) {
  if (byte < 0x80) return {1};
  if (byte < 0xC2) return {0};
  if (byte < 0xE0) return {2};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0};
}

}  // namespace

std::string Utf8Decoder::push(std::string_view bytes) {
  const std::string input = std::exchange(pending_, {}).append(bytes);
  std::string text;
  std::size_t at = 0;
  while (at < input.size()) {
    const Lead lead = classify(static_cast<std::uint8_t>(input[at]));
    std::size_t length = 1;  // bytes that fit so far
    while (length < lead.length && at + length < input.size()) {
      const auto byte = static_cast<std::uint8_t>(input[at + length]);
      const bool fits = length == 1 ? byte >= lead.second_min && byte <= lead.second_max
                                    : byte >= 0x80 && byte <= 0xBF;
      if (!fits) break;
      ++length;
    }
    if (length == lead.length) {
      text.append(input, at, length);
    } else if (lead.length != 0 && at + length == input.size()) {
      pending_ = input.substr(at);
      break;
    } else {
      text += kReplacement;
    }
    at += length;
  }
  return text;
}

std::string Utf8Decoder::finish() {
  if (std::exchange(pending_, {}).empty()) return {};
  return std::string(kReplacement);
}

}  // namespace prima::text

#include "base/printable.h"

#include <cstddef>

namespace prima {

std::string printable(std::string text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool ascii_control = (byte < 0x20 && byte != '\n') || byte == 0x7f;
    // U+0080 to U+009F are C2 80 to C2 9F in UTF-8.
    const bool c1_control = byte >= 0x80 && byte <= 0x9f && i > 0 && text[i - 1] == '\xC2';
    if (c1_control) text[i - 1] = '?';
    if (ascii_control || c1_control) text[i] = '?';
  }
  return text;
}

}  // namespace prima

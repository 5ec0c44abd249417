// A stranger's text (a model's metadata, another device's name) as a terminal may show it.
//
// Thread-safe.
#pragma once

#include <string>

namespace prima {

// Control characters, of ASCII and of U+0080 to U+009F, become '?': nothing steers the terminal.
// Line ends stay.
std::string printable(std::string text);

}  // namespace prima

// Bytes that arrive in pieces, made into valid UTF-8.
//
// Value type; thread-compatible.
#pragma once

#include <string>
#include <string_view>

namespace prima::text {

// Holds back a character until all its bytes are there. Bytes that cannot be a character become
// U+FFFD, one for each maximal part of a sequence, as the Unicode standard advises (section 3.9),
// so the same bytes give the same text however they are cut into pieces.
class Utf8Decoder {
 public:
  // The characters that `bytes` completes.
  std::string push(std::string_view bytes);

  // What was held back, as U+FFFD; the decoder is as new afterwards.
  std::string finish();

 private:
  std::string pending_;  // at most three bytes: the beginning of a character
};

}  // namespace prima::text

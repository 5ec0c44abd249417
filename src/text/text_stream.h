// An answer as it is shown while it is written: valid UTF-8 that never ends inside a character and
// never holds a stop string, nor the beginning of one that the next token may complete.
//
// Invariant: what push() and finish() returned, put together, is the answer up to the first stop
// string (of several, the one that begins first), however it was cut into tokens.
//
// Value type; thread-compatible.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/utf8.h"

namespace prima::text {

class TextStream {
 public:
  // REQUIRES: no stop string is empty.
  explicit TextStream(std::vector<std::string> stops = {});

  // The text that the bytes of a token make ready to be shown. Nothing once stopped.
  std::string push(std::string_view piece);

  // At the end of the answer: what was held back.
  std::string finish();

  // True once a stop string was found.
  bool stopped() const { return stopped_; }

 private:
  std::string release(bool at_end);

  std::vector<std::string> stops_;
  Utf8Decoder decoder_;
  std::string held_;  // text that may belong to a stop string
  bool stopped_ = false;
};

}  // namespace prima::text

// Where llama.cpp's and ggml's messages go: into our log, at debug level, because what a user must
// know reaches them as an Error of ours.
//
// Thread-safe.
#pragma once

#include <string>

namespace prima::text {

// Takes over llama.cpp's logging; the first call counts, later ones do nothing.
void route_llama_log();

// Collects what llama.cpp reports as errors on this thread while the object lives, so that the
// reason can be named in an Error. At most one per thread at a time.
class CapturedLlamaErrors {
 public:
  CapturedLlamaErrors();
  ~CapturedLlamaErrors();
  CapturedLlamaErrors(const CapturedLlamaErrors&) = delete;
  CapturedLlamaErrors& operator=(const CapturedLlamaErrors&) = delete;

  // The first message, on one line; empty if there was none.
  const std::string& first() const { return first_; }

 private:
  friend void keep_llama_error(const std::string& message);

  std::string first_;
};

}  // namespace prima::text

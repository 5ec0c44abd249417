#include "cli/progress_line.h"

#include <cstdio>

#include <unistd.h>

namespace prima::cli {

ProgressLine::ProgressLine() : is_terminal_(::isatty(STDERR_FILENO) != 0) {}

ProgressLine::~ProgressLine() { clear(); }

void ProgressLine::show(const std::string& text) {
  if (!is_terminal_ || text == shown_) return;
  shown_ = text;
  // Carriage return, the text, and the rest of the line erased.
  std::fprintf(stderr, "\r%s\033[K", text.c_str());
  std::fflush(stderr);
}

void ProgressLine::clear() {
  if (shown_.empty()) return;
  shown_.clear();
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
}

}  // namespace prima::cli

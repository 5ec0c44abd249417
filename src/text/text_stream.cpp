#include "text/text_stream.h"

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <utility>

namespace prima::text {

namespace {

// Length of the longest end of `text` with which `stop` begins, shorter than `stop`.
std::size_t partial_match(std::string_view text, std::string_view stop) {
  for (std::size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n) {
    if (text.substr(text.size() - n) == stop.substr(0, n)) return n;
  }
  return 0;
}

}  // namespace

TextStream::TextStream(std::vector<std::string> stops) : stops_(std::move(stops)) {
  assert(std::none_of(stops_.begin(), stops_.end(), [](const auto& s) { return s.empty(); }));
}

std::string TextStream::push(std::string_view piece) {
  if (stopped_) return {};
  held_ += decoder_.push(piece);
  return release(/*at_end=*/false);
}

std::string TextStream::finish() {
  if (stopped_) return {};
  held_ += decoder_.finish();
  return release(/*at_end=*/true);
}

std::string TextStream::release(bool at_end) {
  std::size_t found = std::string::npos;
  std::size_t keep = 0;
  for (const std::string& stop : stops_) {
    found = std::min(found, held_.find(stop));
    keep = std::max(keep, partial_match(held_, stop));
  }
  // A stop string that began earlier than the one found may still be incomplete: wait for it, so
  // that how the answer was cut into tokens does not matter.
  const bool earlier_may_come =
      !at_end && found != std::string::npos && held_.size() - keep < found;
  if (found != std::string::npos && !earlier_may_come) {
    stopped_ = true;
    return std::exchange(held_, {}).substr(0, found);
  }
  if (at_end) return std::exchange(held_, {});
  const std::size_t ready = std::min(found, held_.size() - keep);
  std::string text = held_.substr(0, ready);
  held_.erase(0, ready);
  return text;
}

}  // namespace prima::text

#include "generate/sequence.h"

#include <algorithm>

namespace prima::generate {

void Sequence::forget() { tokens_.clear(); }

std::size_t common_prefix(std::span<const text::Token> a, std::span<const text::Token> b) {
  const std::size_t n = std::min(a.size(), b.size());
  return static_cast<std::size_t>(std::mismatch(a.begin(), a.begin() + n, b.begin()).first -
                                  a.begin());
}

}  // namespace prima::generate

#include "generate/sequence.h"

#include <algorithm>
#include <cassert>

namespace prima::generate {

void Sequence::truncate(std::size_t n) {
  assert(n <= size());
  if (n == size()) return;
  kv_operations_.push_back({.kind = compute::KvOperation::Kind::remove,
                            .sequence = id_,
                            .target = 0,
                            .from = static_cast<std::int32_t>(n),
                            .to = static_cast<std::int32_t>(size())});
  tokens_.resize(n);
}

void Sequence::forget() {
  tokens_.clear();
  kv_operations_.clear();
}

std::size_t common_prefix(std::span<const text::Token> a, std::span<const text::Token> b) {
  const std::size_t n = std::min(a.size(), b.size());
  return static_cast<std::size_t>(std::mismatch(a.begin(), a.begin() + n, b.begin()).first -
                                  a.begin());
}

}  // namespace prima::generate

#include "generate/ngram_drafter.h"

#include <algorithm>

namespace prima::generate {

namespace {

// Longer ones are rarely wrong, shorter than two are mostly so.
constexpr std::size_t kLongest = 5;
constexpr std::size_t kShortest = 2;

// A whole sentence; steps of more tokens gain little where a pass over the weights is what costs.
constexpr std::uint32_t kMost = 32;

}  // namespace

std::vector<text::Token> look_up_ngram(std::span<const text::Token> history, std::uint32_t most) {
  if (most == 0) return {};
  for (std::size_t n = std::min(kLongest, history.size()); n >= kShortest; --n) {
    const auto ending = history.last(n);
    // Backwards: what was said last is likeliest to be said again.
    for (std::size_t at = history.size() - n; at-- > 0;) {
      if (!std::equal(ending.begin(), ending.end(), history.begin() + at)) continue;
      std::vector<text::Token> tokens;
      while (tokens.size() < most) {
        const std::size_t next = at + n + tokens.size();
        tokens.push_back(next < history.size() ? history[next] : tokens[next - history.size()]);
      }
      return tokens;
    }
  }
  return {};
}

Status NgramDrafter::draft(std::span<Draft> drafts) {
  for (Draft& draft : drafts) draft.tokens = look_up_ngram(draft.history, draft.most);
  return {};
}

std::uint32_t NgramDrafter::most() const { return kMost; }

}  // namespace prima::generate

#include "generate/prefix_cache.h"

#include <algorithm>
#include <cassert>

namespace prima::generate {

namespace {

// A shorter common beginning is an accident (a BOS, a template's first tokens), and computing it
// costs less than another sequence in the cache.
constexpr std::size_t kLeastShared = 4;

}  // namespace

PrefixCache::PrefixCache(Engine& engine, std::int32_t n_slots) : engine_(engine) {
  for (std::int32_t id = 0; id < n_slots; ++id) slots_.emplace_back(id);
}

PrefixCache::Match PrefixCache::find(std::span<const text::Token> prompt) const {
  Match best;
  for (const Slot& slot : slots_) {
    const std::size_t n =
        std::min(common_prefix(slot.sequence.tokens(), prompt), prompt.size() - 1);
    // Of equal ones, one that nobody uses: it can be continued without another sequence.
    const bool better = n > best.n || (n == best.n && n > 0 && best.slot->in_use && !slot.in_use);
    if (n >= kLeastShared && better) best = {&slot, n};
  }
  return best;
}

PrefixCache::Slot* PrefixCache::take(const Match& match) {
  const auto go_on = [&] {
    Slot& slot = slots_[static_cast<std::size_t>(match.slot->sequence.id())];
    engine_.truncate(slot.sequence, match.n);
    slot.in_use = true;
    return &slot;
  };
  const bool can_go_on = match.slot != nullptr && !match.slot->in_use;
  if (can_go_on && 2 * match.n >= match.slot->sequence.size()) return go_on();
  const auto is_free = [](const Slot& slot) { return !slot.in_use && slot.sequence.size() == 0; };
  auto free = std::ranges::find_if(slots_, is_free);
  if (free == slots_.end() && evict_one(match.slot)) free = std::ranges::find_if(slots_, is_free);
  if (free == slots_.end()) return can_go_on ? go_on() : nullptr;
  if (match.slot != nullptr) engine_.copy_prefix(match.slot->sequence, free->sequence, match.n);
  free->in_use = true;
  return &*free;
}

void PrefixCache::leave(Slot& slot) {
  assert(slot.in_use);
  slot.in_use = false;
  slot.left_at = ++turn_;
}

bool PrefixCache::evict_one(const Slot* keep) {
  Slot* oldest = nullptr;
  for (Slot& slot : slots_) {
    if (slot.in_use || slot.sequence.size() == 0 || &slot == keep) continue;
    if (oldest == nullptr || slot.left_at < oldest->left_at) oldest = &slot;
  }
  if (oldest == nullptr) return false;
  engine_.truncate(oldest->sequence, 0);
  return true;
}

void PrefixCache::forget() {
  for (Slot& slot : slots_) {
    slot.sequence.forget();
    slot.in_use = false;
  }
}

}  // namespace prima::generate

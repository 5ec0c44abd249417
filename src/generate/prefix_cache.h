// The sequences that the ring's KV cache holds: in use by an answer, left by one that has ended, or
// free.
//
//     free --take()--> in use --leave()--> left --take(), evict()--> in use, free
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <deque>
#include <span>

#include "compute/kv_cells.h"
#include "generate/engine.h"
#include "generate/sequence.h"
#include "text/tokenizer.h"

namespace prima::generate {

class PrefixCache {
 public:
  struct Slot {
    explicit Slot(std::int32_t id) : sequence(id) {}

    Sequence sequence;
    bool in_use = false;
    std::uint64_t left_at = 0;  // turn; the lowest is evicted first
  };

  explicit PrefixCache(Engine& engine, std::int32_t n_slots = compute::kMaxSequences);

  // What the cache can give a prompt: the slot with the longest common beginning, at most all but
  // the prompt's last token, which is computed in any case.
  struct Match {
    const Slot* slot = nullptr;  // null: nothing in common
    std::size_t n = 0;
  };
  Match find(std::span<const text::Token> prompt) const;

  // A sequence that begins with what the match gives: the same one where nobody uses it and not
  // much of it is lost, else another that shares its cells. Null if all slots are in use.
  Slot* take(const Match& match);

  // Its tokens may be reused from now on, until they are evicted. REQUIRES: no step in flight.
  void leave(Slot& slot);

  // Drops the slot that was left first, but not `keep`; false if there is none.
  bool evict_one(const Slot* keep = nullptr);

  // After Engine::reset().
  void forget();

 private:
  Engine& engine_;
  std::deque<Slot> slots_;  // addresses stay
  std::uint64_t turn_ = 0;
};

}  // namespace prima::generate

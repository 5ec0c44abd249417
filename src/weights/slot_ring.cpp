#include "weights/slot_ring.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace prima::weights {

Bytes StageLayout::size() const {
  Bytes total = 0;
  for (const StagePiece& piece : pieces) total += piece.size;
  return total;
}

SlotRing::SlotRing(std::vector<StageLayout> cycle, const SlotRingOptions& options)
    : cycle_(std::move(cycle)), options_(options) {}

std::optional<SlotRing::Read> SlotRing::next_read() {
  const Bytes end = limit();
  for (std::size_t i = 0;; ++i) {
    if (i == slots_.size() && !add_slot()) return std::nullopt;
    Slot& slot = slots_[i];
    if (slot.begin >= end) return std::nullopt;
    if (slot.state != State::waiting && slot.state != State::loading) continue;
    if (slot.submitted == slot.size) continue;

    const StagePiece& piece = cycle_[slot.stage].pieces[slot.piece];
    const Bytes offset = piece.offset + slot.piece_done;
    const Bytes most =
        options_.in_place ? options_.chunk - offset % options_.chunk : options_.chunk;
    const Bytes size = std::min(most, piece.size - slot.piece_done);
    if (slot.begin + slot.submitted + size > end) return std::nullopt;
    const Read read{piece.file, offset, size, slot.begin % options_.capacity + slot.submitted,
                    slot.id};
    slot.state = State::loading;
    slot.submitted += size;
    slot.piece_done += size;
    if (slot.piece_done == piece.size) {
      ++slot.piece;
      slot.piece_done = 0;
    }
    ++slot.in_flight;
    ++in_flight_;
    return read;
  }
}

void SlotRing::complete(std::uint64_t tag, const Status& status) {
  assert(!slots_.empty() && tag >= slots_.front().id && tag < next_id_);
  Slot& slot = slots_[tag - slots_.front().id];
  --slot.in_flight;
  --in_flight_;
  if (slot.state == State::loading) {
    if (!status) {
      slot.state = State::failed;
      slot.error = status.error();
    } else if (slot.submitted == slot.size && slot.in_flight == 0) {
      slot.state = State::ready;
    }
  }
  free_done();
}

SlotRing::Acquired SlotRing::acquire(StageIndex stage) {
  Slot* slot = find_usable(stage);
  for (Slot& other : slots_) {
    const bool is_wanted = slot != nullptr && other.id >= slot->id;
    if (!is_wanted && other.state != State::in_use) other.state = State::done;
  }
  if (slot == nullptr) {
    wanted_ = stage;
    free_done();
    (void)add_slot();  // or by next_read(), when reads of what was given up have completed
    slot = find_usable(stage);
    if (slot == nullptr) return {in_flight_ > 0 ? Readiness::loading : Readiness::blocked, 0};
  }
  switch (slot->state) {
    case State::ready:
    case State::in_use: {
      slot->state = State::in_use;
      ++slot->uses;
      const Acquired acquired{Readiness::ready, slot->begin % options_.capacity};
      free_done();
      return acquired;
    }
    case State::failed:
      error_ = slot->error;
      start_again_at(stage);
      return {Readiness::failed, 0};
    default: break;
  }
  const bool is_blocked = std::any_of(slots_.begin(), slots_.end(), [&](const Slot& older) {
    return older.id < slot->id && older.state == State::in_use &&
           slot->begin + slot->size > older.begin + options_.capacity;
  });
  free_done();
  return {is_blocked ? Readiness::blocked : Readiness::loading, 0};
}

void SlotRing::start_again_at(StageIndex stage) {
  for (Slot& slot : slots_) {
    if (slot.state != State::in_use) slot.state = State::done;
  }
  wanted_ = stage;
  free_done();
}

void SlotRing::release(StageIndex stage) {
  for (Slot& slot : slots_) {
    if (slot.stage != stage || slot.state != State::in_use) continue;
    if (--slot.uses == 0) slot.state = State::done;
    free_done();
    return;
  }
  assert(false && "released a stage that is not in use");
}

bool SlotRing::is_coming_up(StageIndex stage) const {
  return std::any_of(slots_.begin(), slots_.end(), [&](const Slot& slot) {
    return slot.stage == stage && slot.state != State::done;
  });
}

bool SlotRing::add_slot() {
  if (cycle_.empty()) return false;
  // Behind a slot that was given up and is still being read into, ring would be lost for as long as
  // older slots stay in use; its reads complete soon.
  if (!slots_.empty() && slots_.back().state == State::done) return false;

  const auto n_stages = static_cast<StageIndex>(cycle_.size());
  StageIndex stage = wanted_.value_or(cursor_);
  if (!wanted_ && skip_) {
    StageIndex passed_over = 0;
    while (skip_(stage)) {
      if (++passed_over == n_stages) return false;  // nothing is streamed
      stage = (stage + 1) % n_stages;
    }
  }
  const Bytes size = cycle_[stage].size();
  assert(size <= options_.capacity);
  const Bytes begin =
      place(slots_.empty() ? head_ : slots_.back().begin + slots_.back().size, size);
  if (begin >= limit()) return false;  // none of it could be read yet

  Slot slot;
  slot.id = next_id_++;
  slot.stage = stage;
  slot.begin = begin;
  slot.size = size;
  slots_.push_back(std::move(slot));
  wanted_.reset();
  cursor_ = (stage + 1) % n_stages;
  return true;
}

void SlotRing::free_done() {
  const auto is_free = [](const Slot& slot) {
    return slot.state == State::done && slot.in_flight == 0;
  };
  while (!slots_.empty() && is_free(slots_.front())) {
    const Slot slot = std::move(slots_.front());
    head_ = slot.begin + slot.size;
    slots_.pop_front();
    note_freed(slot);
  }
  while (!slots_.empty() && is_free(slots_.back())) {
    const Slot slot = std::move(slots_.back());
    slots_.pop_back();
    --next_id_;
    note_freed(slot);
  }
}

void SlotRing::note_freed(const Slot& slot) {
  if (!options_.in_place) return;
  const bool has_another =
      std::ranges::any_of(slots_, [&](const Slot& other) { return other.stage == slot.stage; });
  if (!has_another) freed_.push_back(slot.stage);
}

SlotRing::Slot* SlotRing::find_usable(StageIndex stage) {
  for (Slot& slot : slots_) {
    if (slot.stage == stage && slot.state != State::done) return &slot;
  }
  return nullptr;
}

Bytes SlotRing::place(Bytes begin, Bytes size) const {
  if (options_.mirrored) return begin;
  const Bytes position = begin % options_.capacity;
  return position + size <= options_.capacity ? begin : begin - position + options_.capacity;
}

Bytes SlotRing::limit() const {
  return (slots_.empty() ? head_ : slots_.front().begin) + options_.capacity;
}

}  // namespace prima::weights

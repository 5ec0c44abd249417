// Which streamed stage occupies which part of the slot memory, and what to read next: the
// streamer's decisions, without threads, files or time.
//
// The slot memory is one ring. A slot is the run of it that one stage occupies, so slots are as
// large as their stages and none of the memory is idle. Slots are handed out in order of use,
// cyclically, and come free in the same order; a stage is read in chunks, each as soon as its bytes
// of the ring are free, so a disk stays busy although the ring is hardly larger than one stage.
//
// A slot's life, and what moves it on:
//
//                next_read            complete (last)           acquire
//     +---------+        +---------+                 +-------+          +--------+
//     | waiting | -----> | loading | --------------> | ready | -------> | in use |
//     +---------+        +---------+                 +-------+          +--------+
//          |               |     | complete (error)      |                  | release
//          |               |     v                       |                  v
//          |               |  +--------+   acquire       |              +------+
//          |               |  | failed | --------------> | -----------> | done |--> free, once all
//          |               |  +--------+                 |              +------+    older are free
//          +---------------+-------- acquire of a stage further on ------->+
//
// A done slot whose reads are still in flight keeps its bytes until they have completed.
//
// Invariants:
//  1. Slots lie in the ring in order of their age; the bytes of two of them never overlap while a
//     read into the younger one may be in flight or done.
//  2. Stages follow each other in the ring as they do in the cycle, skipped ones left out, except
//     where acquire() jumped.
//
// Thread-compatible (the Streamer locks).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "weights/weights.h"

namespace prima::weights {

// One run of a stage's bytes in a file; offset and size are multiples of the reader's alignment.
struct StagePiece {
  std::uint32_t file = 0;
  Bytes offset = 0;
  Bytes size = 0;
};

// A stage as it is read: its pieces follow each other in the slot.
struct StageLayout {
  std::vector<StagePiece> pieces;

  Bytes size() const;
};

struct SlotRingOptions {
  Bytes capacity = 0;     // bytes of slot memory; a multiple of the reader's alignment
  bool mirrored = false;  // the memory appears twice in a row, so a slot may run across its end
  Bytes chunk = kMiB;     // most bytes of one read
  // Stages are read where their file is mapped: slots are bytes of it, `capacity` at most, and no
  // read goes across a multiple of `chunk` in the file.
  bool in_place = false;
};

class SlotRing {
 public:
  struct Read {
    std::uint32_t file = 0;
    Bytes offset = 0;  // in the file
    Bytes size = 0;
    Bytes position = 0;  // in the slot memory
    std::uint64_t tag = 0;
  };

  enum class Readiness {
    ready,    // now in use
    loading,  // ask again after the next complete()
    failed,   // see error(); asking again reads again
    blocked,  // cannot be read before slots in use are released: they leave too little of the ring
  };

  struct Acquired {
    Readiness readiness = Readiness::loading;
    Bytes position = 0;  // of the stage's first piece in the slot memory, when ready
  };

  // `cycle`: all stages in order of use; stage i is cycle[i]. REQUIRES: every stage that is ever
  // streamed fits in the capacity.
  SlotRing(std::vector<StageLayout> cycle, const SlotRingOptions& options);

  // Says for each stage, each time its turn comes, whether to pass it over (it is resident).
  // Without one, all stages are streamed.
  void set_skip(std::function<bool(StageIndex)> skip) { skip_ = std::move(skip); }

  // The next read in order of use whose bytes of the ring are free; nullopt if there is none now.
  std::optional<Read> next_read();
  void complete(std::uint64_t tag, const Status& status);

  // For use. Slots of stages that were expected before this one are given up; where this one is not
  // coming up, all are, and reading goes on from it. A stage may be acquired again while in use.
  Acquired acquire(StageIndex stage);
  // REQUIRES: the stage is in use.
  void release(StageIndex stage);

  // Where stages are read in place: those whose slots came free since the last call, and that have
  // no other. What was read of them takes memory until the caller gives it back; before it has, it
  // must not read on.
  std::vector<StageIndex> take_freed() { return std::exchange(freed_, {}); }

  // Whether the stage has a slot that acquire() would use.
  bool is_coming_up(StageIndex stage) const;

  // Of the stage whose acquire() failed last.
  const Error& error() const { return error_; }

  std::uint64_t reads_in_flight() const { return in_flight_; }
  Bytes capacity() const { return options_.capacity; }

 private:
  enum class State { waiting, loading, ready, in_use, failed, done };

  struct Slot {
    std::uint64_t id = 0;
    StageIndex stage = 0;
    State state = State::waiting;
    Bytes begin = 0;  // virtual: grows for ever; modulo capacity it is the place in the memory
    Bytes size = 0;
    // How far reading has got.
    std::size_t piece = 0;
    Bytes piece_done = 0;
    Bytes submitted = 0;
    std::uint32_t in_flight = 0;
    std::uint32_t uses = 0;
    Error error;
  };

  bool add_slot();
  void start_again_at(StageIndex stage);
  void free_done();
  void note_freed(const Slot& slot);
  Slot* find_usable(StageIndex stage);
  Bytes place(Bytes begin, Bytes size) const;
  // Younger slots may use the ring up to here.
  Bytes limit() const;

  std::vector<StageLayout> cycle_;
  SlotRingOptions options_;
  std::function<bool(StageIndex)> skip_;
  std::deque<Slot> slots_;            // oldest first
  std::uint64_t next_id_ = 0;         // slots_.front().id + slots_.size()
  StageIndex cursor_ = 0;             // the next stage to get a slot
  std::optional<StageIndex> wanted_;  // to get a slot before that, and not to be passed over
  Bytes head_ = 0;                    // where the next slot begins if there are none
  std::vector<StageIndex> freed_;
  std::uint64_t in_flight_ = 0;
  Error error_;
};

}  // namespace prima::weights

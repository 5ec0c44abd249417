// Streams stages from disk into slots, ahead of their use: a thread of its own keeps the reader
// busy in order of use, as far ahead as the slot memory allows. slot_ring.h has the life of a slot
// and all decisions; this adds the thread, the waiting and the deadlines.
//
// acquire(), release() and set_idle_work() are for the computing thread; the rest is thread-safe.
//
// Destroying it waits for reads in flight. Should a disk never answer, the reader and its memory
// are left to the process's end rather than freed under a read.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/idle_work.h"
#include "base/result.h"
#include "base/units.h"
#include "weights/reader.h"
#include "weights/reading_time.h"
#include "weights/slot_memory.h"
#include "weights/slot_ring.h"
#include "weights/streaming_options.h"
#include "weights/weights.h"

namespace prima::weights {

struct StreamerStatistics {
  Bytes bytes_read = 0;   // that have come
  Duration reading{};     // in which reads were in flight
  Duration queue_full{};  // of it, with half as many or more as the reader and the slots allow
  std::uint64_t stages_acquired = 0;
  std::uint64_t failed_reads = 0;
  Duration waited{};  // by the computing thread, in acquire()
};

// In the place of slot memory where stages are computed with where their file is mapped.
struct InPlaceSlots {
  Bytes capacity = 0;  // of what is in memory ahead of use and in use
  // Gives the stage's memory back. Called by the streamer's thread, without its lock.
  std::function<void(StageIndex)> drop;
};

class Streamer {
 public:
  // `cycle`: stages in order of use; every one that is streamed fits in `memory`. `skip` says, each
  // time a stage's turn comes, whether it is passed over because it is resident; it is called with
  // the streamer's lock held.
  Streamer(std::unique_ptr<Reader> reader, std::variant<SlotMemory, InPlaceSlots> memory,
           std::vector<StageLayout> cycle, std::function<bool(StageIndex)> skip = {},
           const StreamerOptions& options = {});
  ~Streamer();
  Streamer(const Streamer&) = delete;
  Streamer& operator=(const Streamer&) = delete;

  // Waits until the stage is in memory; where its first piece begins, null in place. Fails with io
  // (after trying once more), unavailable (the file changed), deadline_exceeded, or
  // resource_exhausted (stages in use leave too little slot memory for this one). The next
  // acquire() starts afresh.
  Result<std::byte*> acquire(StageIndex stage);
  void release(StageIndex stage);

  // Whether acquire() would find the stage read or being read.
  bool is_coming_up(StageIndex stage) const;

  // What acquire() does while it waits; null: nothing. It is called without the streamer's lock.
  void set_idle_work(IdleWork* work) { idle_work_ = work; }

  // What `skip` says has changed.
  void residency_changed();

  StreamerStatistics statistics() const;
  Bytes memory_bytes() const { return ring_.capacity(); }
  std::string description() const { return reader_->description(); }
  bool reads_directly() const { return reader_->is_direct(); }

 private:
  void work();
  void drop_freed(std::unique_lock<std::mutex>& lock);
  void drain();

  const StreamerOptions options_;
  std::unique_ptr<Reader> reader_;  // used by the thread only, check_unchanged() excepted
  std::variant<SlotMemory, InPlaceSlots> memory_;
  std::byte* const slots_;  // null in place
  IdleWork* idle_work_ = nullptr;

  mutable std::mutex mutex_;
  std::condition_variable work_to_do_;  // for the thread: bytes came free, or stop
  std::condition_variable progress_;    // for acquire(): reads completed
  SlotRing ring_;
  bool stop_ = false;
  StreamerStatistics statistics_;  // less what reading_time_ knows
  ReadingTime reading_time_;
  std::uint64_t completions_ = 0;
  std::thread thread_;  // last: it uses all the others
};

}  // namespace prima::weights

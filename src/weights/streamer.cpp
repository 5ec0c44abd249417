#include "weights/streamer.h"

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace prima::weights {

namespace {

// How long the thread waits for a completion before it looks round again: only the end of the
// program and space that came free while few reads were in flight wait for this.
constexpr Duration kReaderWait = std::chrono::milliseconds(20);

constexpr Duration kDrainLimit = std::chrono::seconds(10);

// Reads in flight from which a disk is busy with as much as it is ever given at once, or nearly.
std::size_t full_queue(std::size_t queue_depth, Bytes slot_memory, Bytes chunk) {
  return std::max<std::size_t>(1, std::min<std::size_t>(queue_depth, slot_memory / chunk) / 2);
}

SlotRingOptions ring_options(const std::variant<SlotMemory, InPlaceSlots>& memory, Bytes chunk) {
  if (const auto* slots = std::get_if<SlotMemory>(&memory)) {
    return {.capacity = slots->capacity(), .mirrored = slots->mirrored(), .chunk = chunk};
  }
  const Bytes capacity = std::get<InPlaceSlots>(memory).capacity;
  return {.capacity = capacity, .mirrored = true, .chunk = chunk, .in_place = true};
}

}  // namespace

Streamer::Streamer(std::unique_ptr<Reader> reader, std::variant<SlotMemory, InPlaceSlots> memory,
                   std::vector<StageLayout> cycle, std::function<bool(StageIndex)> skip,
                   const StreamerOptions& options)
    : options_(options),
      reader_(std::move(reader)),
      memory_(std::move(memory)),
      slots_(std::holds_alternative<SlotMemory>(memory_) ? std::get<SlotMemory>(memory_).data()
                                                         : nullptr),
      ring_(std::move(cycle), ring_options(memory_, options.chunk)),
      reading_time_(full_queue(reader_->queue_depth(), ring_.capacity(), options.chunk)) {
  ring_.set_skip(std::move(skip));
  thread_ = std::thread([this] { work(); });
}

Streamer::~Streamer() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_to_do_.notify_all();
  thread_.join();
  if (ring_.reads_in_flight() > 0) {
    log::error("a disk has not answered for {:.0f} s; leaving its reads alone",
               seconds(kDrainLimit));
    (void)reader_.release();
    (void)new auto(std::move(memory_));
  }
}

void Streamer::work() {
  const SystemClock clock;
  std::vector<SlotRing::Read> reads;
  std::vector<ReadCompletion> completions;
  std::unique_lock lock(mutex_);
  while (!stop_) {
    drop_freed(lock);
    reads.clear();
    while (ring_.reads_in_flight() < reader_->queue_depth()) {
      const auto read = ring_.next_read();
      if (!read) break;
      reads.push_back(*read);
    }
    const bool idle = ring_.reads_in_flight() == 0;
    if (idle) {
      if (!stop_) work_to_do_.wait(lock);  // the lock was open since that was looked at
      continue;
    }
    reading_time_.began(reads.size(), clock.now());
    lock.unlock();
    for (const SlotRing::Read& read : reads) {
      reader_->submit({read.file, read.offset, read.size,
                       slots_ != nullptr ? slots_ + read.position : nullptr, read.tag});
    }
    completions.clear();
    reader_->wait(kReaderWait, completions);
    const Instant now = clock.now();
    lock.lock();
    for (const ReadCompletion& completion : completions) {
      ring_.complete(completion.tag, completion.status);
      reading_time_.ended(completion.status ? completion.size : 0, now);
      if (!completion.status) ++statistics_.failed_reads;
    }
    completions_ += completions.size();
    if (!completions.empty()) progress_.notify_all();
  }
  lock.unlock();
  drain();
}

// What is read next may take no more memory than came free.
void Streamer::drop_freed(std::unique_lock<std::mutex>& lock) {
  auto* const in_place = std::get_if<InPlaceSlots>(&memory_);
  if (in_place == nullptr) return;
  for (auto freed = ring_.take_freed(); !freed.empty(); freed = ring_.take_freed()) {
    lock.unlock();
    for (const StageIndex stage : freed) in_place->drop(stage);
    lock.lock();
  }
}

void Streamer::drain() {
  const Instant limit = SystemClock().now() + kDrainLimit;
  std::vector<ReadCompletion> completions;
  while (ring_.reads_in_flight() > 0 && SystemClock().now() < limit) {
    completions.clear();
    reader_->wait(kReaderWait, completions);
    for (const ReadCompletion& completion : completions) {
      ring_.complete(completion.tag, completion.status);
    }
  }
}

Result<std::byte*> Streamer::acquire(StageIndex stage) {
  PRIMA_RETURN_IF_ERROR(reader_->check_unchanged());
  const SystemClock clock;
  const Instant start = clock.now();
  bool tried_again = false;
  bool had_to_wait = false;
  std::unique_lock lock(mutex_);
  while (true) {
    const SlotRing::Acquired acquired = ring_.acquire(stage);
    switch (acquired.readiness) {
      case SlotRing::Readiness::ready:
        ++statistics_.stages_acquired;
        statistics_.waited += clock.now() - start;
        if (had_to_wait && idle_work_ != nullptr) idle_work_->ended(stage, clock.now() - start);
        return slots_ != nullptr ? slots_ + acquired.position : nullptr;
      case SlotRing::Readiness::failed:
        if (tried_again || ring_.error().code != ErrorCode::io) {
          return tl::unexpected(ring_.error());
        }
        log::warn("{}; trying again", ring_.error().what);
        tried_again = true;
        continue;
      case SlotRing::Readiness::blocked:
        return fail(ErrorCode::resource_exhausted,
                    "stages in use leave too little slot memory for the next one");
      case SlotRing::Readiness::loading: break;
    }
    had_to_wait = true;
    work_to_do_.notify_all();
    const std::uint64_t seen = completions_;
    if (idle_work_ != nullptr) {
      lock.unlock();
      const bool worked = idle_work_->work(stage, clock.now() - start);
      lock.lock();
      if (worked) continue;
    }
    const bool progressed =
        progress_.wait_for(lock, options_.stall_limit, [&] { return completions_ != seen; });
    if (!progressed) {
      return fail(ErrorCode::deadline_exceeded,
                  "the disk has not answered for " +
                      std::to_string(static_cast<int>(seconds(options_.stall_limit))) + " s",
                  "Check the disk and its connection");
    }
  }
}

void Streamer::release(StageIndex stage) {
  {
    std::lock_guard lock(mutex_);
    ring_.release(stage);
  }
  work_to_do_.notify_all();
}

bool Streamer::is_coming_up(StageIndex stage) const {
  std::lock_guard lock(mutex_);
  return ring_.is_coming_up(stage);
}

void Streamer::residency_changed() { work_to_do_.notify_all(); }

StreamerStatistics Streamer::statistics() const {
  std::lock_guard lock(mutex_);
  StreamerStatistics statistics = statistics_;
  const ReadingTime::Totals totals = reading_time_.totals(SystemClock().now());
  statistics.bytes_read = totals.bytes;
  statistics.reading = totals.busy;
  statistics.queue_full = totals.queue_full;
  return statistics;
}

}  // namespace prima::weights

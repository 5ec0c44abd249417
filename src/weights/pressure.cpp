#include "weights/pressure.h"

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace prima::weights {
namespace {

// Often enough to be ahead of a program that allocates a gigabyte per second by a reserve of half
// of that; a sample costs some ten microseconds.
constexpr Duration kSampleInterval = std::chrono::milliseconds(250);

// Where this many reserves more than one are left to others, their stalls have other reasons than
// our weights.
constexpr Bytes kTight = 3;

}  // namespace

std::optional<Bytes> ResidencyPolicy::decide(const MemorySample& sample, Instant now) {
  const Bytes claimed = resident_ + rules_.reserve;
  const MemorySample before = std::exchange(before_, sample).value_or(sample);

  Bytes give_up = sample.available < claimed ? claimed - sample.available : 0;
  // The system counts everybody's stalls, also those of a group at a limit of its own.
  const bool is_tight = sample.available < claimed + kTight * rules_.reserve;
  if (is_tight && sample.stalled - before.stalled > rules_.stall_limit) {
    give_up = std::max(give_up, rules_.step);
  }
  give_up = std::max(give_up, sample.lost - before.lost);
  if (give_up > 0) {
    calm_since_.reset();
    if (resident_ == 0) return std::nullopt;
    resident_ -= std::min(resident_, std::max(give_up, rules_.step));
    return resident_;
  }
  if (resident_ == wanted_ || sample.available < claimed + rules_.step) {
    calm_since_.reset();
    return std::nullopt;
  }
  if (!calm_since_) calm_since_ = now;
  if (now - *calm_since_ < rules_.calm_time) return std::nullopt;
  calm_since_.reset();
  // Half: whoever let go of the memory may want it again.
  const Bytes excess = sample.available - claimed;
  resident_ = std::min(wanted_, resident_ + std::max(rules_.step, excess / 2));
  return resident_;
}

GoodNeighbour::GoodNeighbour(std::unique_ptr<MemoryWatch> watch, Bytes wanted,
                             const ResidencyRules& rules, std::function<Bytes()> lost_bytes,
                             std::function<void(Bytes)> set_resident)
    : watch_(std::move(watch)),
      policy_(wanted, rules),
      lost_bytes_(std::move(lost_bytes)),
      set_resident_(std::move(set_resident)) {
  thread_ = std::thread([this] { work(); });
}

GoodNeighbour::~GoodNeighbour() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stopping_.notify_all();
  thread_.join();
}

void GoodNeighbour::work() {
  const SystemClock clock;
  std::unique_lock lock(mutex_);
  while (!stopping_.wait_for(lock, kSampleInterval, [this] { return stop_; })) {
    lock.unlock();
    if (auto sample = watch_->sample()) {
      sample->lost = lost_bytes_();
      const Bytes before = policy_.resident();
      if (const auto resident = policy_.decide(*sample, clock.now())) {
        log::info(
            "{} weights resident, {} before: {} of memory are available, {} were taken so far",
            format_bytes(*resident), format_bytes(before), format_bytes(sample->available),
            format_bytes(sample->lost));
        set_resident_(*resident);
      }
    }
    lock.lock();
  }
}

}  // namespace prima::weights

#include "profile/observed_disk.h"

#include "base/log.h"

namespace prima::profile {
namespace {

// Of a span. Reads in flight at its ends (8 MiB) are little against that; and control groups give
// throttled disks their allowance in slices of up to 100 ms.
constexpr Bytes kLeastBytes = 64 * kMiB;
constexpr Duration kLeastTime = std::chrono::milliseconds(200);

// Each is the mean of many reads already.
constexpr std::size_t kEnoughSpans = 8;

// Of the time with reads in flight, where the disk was the limit.
constexpr double kQueueFull = 0.9;
constexpr double kWaited = 0.05;

}  // namespace

void ObservedDisk::add(Instant now, const compute::WeightReads& reads) {
  if (profiled_bytes_per_second_ <= 0) return;
  // Other reads have had their part of the disk: how much of it is not known.
  if (!begin_ || reads.others != begin_->reads.others) {
    begin_ = {now, reads};
    return;
  }
  const compute::WeightReads& before = begin_->reads;
  const Bytes bytes = reads.bytes - before.bytes;
  const Duration span = now - begin_->now;
  if (bytes < kLeastBytes || span < kLeastTime) return;
  const double busy = seconds(reads.busy - before.busy);
  const double queue_full = seconds(reads.queue_full - before.queue_full);
  const double waited = seconds(reads.waited - before.waited);
  const bool was_limit = queue_full >= kQueueFull * busy && waited >= kWaited * busy;
  log::debug(
      "{} from disk in {:.3f} s: reading {:.3f} s, with a full queue {:.3f} s, waited {:.3f} s",
      format_bytes(bytes), seconds(span), busy, queue_full, waited);
  begin_ = {now, reads};

  const double expected = static_cast<double>(bytes) / profiled_bytes_per_second_;
  // The file cache is faster than the disk: what comes through it says nothing of what a disk can.
  if (reads.direct) at_least_.add(expected / seconds(span));
  if (was_limit && busy > 0) at_most_.add(expected / busy);
}

std::optional<double> ObservedDisk::correction() const {
  const auto up = correction_by(at_least_.median(kEnoughSpans));
  const auto down = correction_by(at_most_.median(kEnoughSpans));
  const bool is_faster = up && *up > 1;
  const bool is_slower = down && *down < 1;
  if (is_faster == is_slower) return std::nullopt;  // neither, or now this and now that
  return is_faster ? up : down;
}

}  // namespace prima::profile

#include "plan/device_timeline.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "plan/infinity.h"

namespace prima::plan {

void add_span(DeviceTrace& trace, Activity activity, double start, double end) {
  if (end <= start) return;
  if (!trace.spans.empty()) {
    Span& last = trace.spans.back();
    if (last.activity == activity && std::abs(last.end_seconds - start) < 1e-9) {
      last.end_seconds = end;
      return;
    }
  }
  trace.spans.push_back({activity, start, end});
}

DeviceTimeline::DeviceTimeline(const SimulatedDevice& device, std::uint32_t steps, bool prefilled)
    : device_(device), steps_(steps) {
  for (const auto& visit : device.visits) {
    Bytes bytes = 0;
    for (const SimulatedItem& item : visit) bytes += item.read_bytes;
    const bool holds = bytes <= device.slot_bytes;
    holds_.push_back(holds);
    first_piece_.push_back(static_cast<std::uint32_t>(piece_bytes_.size()));
    for (std::uint32_t step = 0; step < (holds ? 1 : steps); ++step) {
      for (const SimulatedItem& item : visit) {
        if (item.read_bytes > 0) piece_bytes_.push_back(item.read_bytes);
      }
    }
  }
  find_parts();
  consumed_.assign(piece_bytes_.size(), prefilled ? -kInfinity : 0.0);
  if (prefilled) disk_free_ = -seconds_to_fill_slots();
}

double DeviceTimeline::run(std::uint32_t v, std::uint32_t step, double start, DeviceTrace* trace) {
  const bool reads = step == 0 || !holds_[v];
  const bool frees = step + 1 == steps_ || !holds_[v];
  std::uint32_t piece = first_piece_[v];
  if (!holds_[v]) piece += step * (pieces_in(v) / steps_);
  double now = start;
  for (const SimulatedItem& item : device_.visits[v]) {
    if (item.read_bytes > 0 && reads) now = std::max(now, wait_for(piece, now, trace));
    if (trace != nullptr) add_span(*trace, Activity::compute, now, now + item.compute_seconds);
    now += item.compute_seconds;
    if (item.read_bytes == 0) continue;
    if (frees) consumed_[piece] = now;
    ++piece;
  }
  return now;
}

std::uint32_t DeviceTimeline::pieces_in(std::uint32_t v) const {
  const auto end = v + 1 < first_piece_.size() ? first_piece_[v + 1]
                                               : static_cast<std::uint32_t>(piece_bytes_.size());
  return end - first_piece_[v];
}

// When piece `piece` has been read. Called once for each, in order of use.
double DeviceTimeline::wait_for(std::uint32_t piece, double now, DeviceTrace* trace) {
  const auto n = static_cast<std::uint32_t>(piece_bytes_.size());
  for (std::uint32_t i = first_part_[piece]; i < first_part_[piece + 1]; ++i) {
    const Part& part = parts_[i];
    const double room_at =
        consumed_[piece >= part.reach ? piece - part.reach : piece + n - part.reach];
    const double begin = std::max(disk_free_, room_at);
    disk_free_ = begin + static_cast<double>(part.bytes) / device_.disk_bytes_per_second;
    if (trace != nullptr) add_span(*trace, Activity::disk_read, begin, disk_free_);
  }
  if (trace != nullptr) add_span(*trace, Activity::disk_wait, now, disk_free_);
  return disk_free_;
}

// The slots hold the bytes from the oldest piece not computed yet up to what is being read. Counted
// from the start of piece i's cycle, byte x of it can be read once all but slot_bytes before it are
// released, which happens piece by piece.
void DeviceTimeline::find_parts() {
  const std::size_t n = piece_bytes_.size();
  if (n == 0) return;
  // What is held when the cycle begins again: the pieces before the first, back to where the slots
  // end or the first itself. Too many does no harm: they are released as room is needed.
  Bytes held = 0;
  std::size_t oldest = 0;
  std::uint32_t n_held = 0;
  while (n_held + 1 < n && held < device_.slot_bytes) {
    oldest = oldest == 0 ? n - 1 : oldest - 1;
    held += piece_bytes_[oldest];
    ++n_held;
  }
  const auto release = [&] {
    held -= piece_bytes_[oldest];
    if (++oldest == n) oldest = 0;
    --n_held;
  };
  parts_.reserve(2 * n);
  first_part_.reserve(n + 1);
  first_part_.push_back(0);
  for (std::size_t i = 0; i < n; ++i) {
    const Bytes size = piece_bytes_[i];
    assert(size <= device_.slot_bytes);
    // A piece has one place: it is not read again before it was computed.
    if (n_held == n) release();
    for (Bytes done = 0; done < size;) {
      while (held + done >= device_.slot_bytes) release();
      const Bytes bytes = std::min(size - done, device_.slot_bytes - held - done);
      // Piece i - n_held is the oldest still held, so the one before it has to be released.
      parts_.push_back({bytes, n_held + 1});
      done += bytes;
    }
    held += size;
    ++n_held;
    first_part_.push_back(static_cast<std::uint32_t>(parts_.size()));
  }
}

double DeviceTimeline::seconds_to_fill_slots() const {
  Bytes held = 0;
  for (const Bytes bytes : piece_bytes_) held += bytes;
  return static_cast<double>(std::min(held, device_.slot_bytes)) / device_.disk_bytes_per_second;
}

}  // namespace prima::plan

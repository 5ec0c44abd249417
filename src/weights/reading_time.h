// How long a disk took for what it delivered: bytes that have come, and the time in which at least
// one read was in flight. Neither is told apart by who waited for it, so over spans of many reads
// they belong to each other: a read that is in flight at a span's end counts with its time on one
// side and with its bytes on the other, by as much as the one in flight at its beginning.
//
// Thread-compatible.
#pragma once

#include <cstddef>

#include "base/clock.h"
#include "base/units.h"

namespace prima::weights {

class ReadingTime {
 public:
  struct Totals {
    Bytes bytes = 0;
    Duration busy{};        // with at least one read in flight
    Duration queue_full{};  // with at least `full_queue` in flight
  };

  explicit ReadingTime(std::size_t full_queue) : full_queue_(full_queue) {}

  // Instants never decrease.
  void began(std::size_t n_reads, Instant now);
  // `bytes`: 0 where it failed. REQUIRES: it has begun.
  void ended(Bytes bytes, Instant now);

  // Up to `now`, reads in flight included.
  Totals totals(Instant now) const;

 private:
  const std::size_t full_queue_;
  std::size_t in_flight_ = 0;
  Instant since_{};  // totals_ are up to here
  Totals totals_;
};

}  // namespace prima::weights

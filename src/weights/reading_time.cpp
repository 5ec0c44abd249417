#include "weights/reading_time.h"

#include <cassert>

namespace prima::weights {

void ReadingTime::began(std::size_t n_reads, Instant now) {
  totals_ = totals(now);
  since_ = now;
  in_flight_ += n_reads;
}

void ReadingTime::ended(Bytes bytes, Instant now) {
  assert(in_flight_ > 0);
  totals_ = totals(now);
  since_ = now;
  --in_flight_;
  totals_.bytes += bytes;
}

ReadingTime::Totals ReadingTime::totals(Instant now) const {
  Totals totals = totals_;
  if (now <= since_) return totals;
  if (in_flight_ > 0) totals.busy += now - since_;
  if (in_flight_ >= full_queue_) totals.queue_full += now - since_;
  return totals;
}

}  // namespace prima::weights

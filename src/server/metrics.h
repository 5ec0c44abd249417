// What /metrics tells: counters since the start, histograms of latencies, the state of the queue
// and of the devices, in Prometheus' text format.
//
// Thread-compatible.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "generate/answer.h"
#include "generate/batcher.h"
#include "ring/ring.h"

namespace prima::server {

// Counts durations by upper bounds: a millisecond to five minutes.
class LatencyHistogram {
 public:
  static constexpr std::array<double, 18> kBounds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                                     0.1,   0.25,   0.5,   1,    2.5,   5,
                                                     10,    25,     50,    100,  200,   300};

  void observe(Duration duration);
  void print(const char* name, const char* help, std::string& out) const;

 private:
  std::array<std::uint64_t, kBounds.size() + 1> counts_{};  // the last: beyond all bounds
  double sum_ = 0.0;
};

class Metrics {
 public:
  void count_request(const char* outcome);
  void count_answer(const generate::Answer& answer);
  void set_batcher(const generate::BatcherStatistics& statistics);
  void set_ring(ring::RingDescription ring, Instant serving_since);

  std::string print(bool ready, Instant now) const;

 private:
  LatencyHistogram time_to_first_token_;
  LatencyHistogram time_per_output_token_;
  LatencyHistogram queue_time_;
  std::map<std::string, std::uint64_t> requests_;  // by how they ended
  generate::BatcherStatistics batcher_;
  ring::RingDescription ring_;
  Instant serving_since_{};
};

}  // namespace prima::server

// Good neighbour: when other programs need memory, resident weights are given up at once; when
// memory has been plentiful for a while, they come back.
//
// Resident weights are clean file pages, which the system counts as available. What is left for
// others while all of them stay is therefore: available - resident. The rule keeps that above a
// reserve:
//
//      available - resident      < reserve           give up the difference, now
//                                > reserve + step    for `calm_time`: take half of the excess back
//      tasks stalled for memory  > stall_limit       give up a step, now, if less than
//                                                    four reserves are left
//      the system took pages of resident weights     give up as much, now
//
// MemoryWatch is the seam: the system's numbers, or a test's.
//
// ResidencyPolicy is thread-compatible; GoodNeighbour is a thread.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "base/clock.h"
#include "base/result.h"
#include "base/units.h"

namespace prima::weights {

struct MemorySample {
  Bytes available = 0;  // available_memory()
  Bytes lost = 0;       // since the start: pages of resident weights taken by the system
  Duration stalled{};   // since the system's start: tasks waited for memory (PSI, some)
};

class MemoryWatch {
 public:
  virtual ~MemoryWatch() = default;
  virtual Result<MemorySample> sample() = 0;
};

std::unique_ptr<MemoryWatch> system_memory_watch();

struct ResidencyRules {
  Bytes reserve = 0;  // kept for other programs
  Bytes step = 64 * kMiB;
  Duration calm_time = std::chrono::seconds(10);
  // Stalls of this length between two samples mean that the system is short whatever it counts.
  Duration stall_limit = std::chrono::milliseconds(50);
};

// How much of `wanted` bytes of weights should be resident.
class ResidencyPolicy {
 public:
  ResidencyPolicy(Bytes wanted, const ResidencyRules& rules)
      : wanted_(wanted), resident_(wanted), rules_(rules) {}

  // The new number of resident bytes; nullopt to leave things as they are.
  std::optional<Bytes> decide(const MemorySample& sample, Instant now);

  Bytes resident() const { return resident_; }

 private:
  const Bytes wanted_;
  Bytes resident_;
  const ResidencyRules rules_;
  std::optional<Instant> calm_since_;
  std::optional<MemorySample> before_;
};

class GoodNeighbour {
 public:
  // `lost_bytes` completes what `watch` sees; `set_resident` is called from a thread of its own; it
  // may take as long as it needs.
  GoodNeighbour(std::unique_ptr<MemoryWatch> watch, Bytes wanted, const ResidencyRules& rules,
                std::function<Bytes()> lost_bytes, std::function<void(Bytes)> set_resident);
  ~GoodNeighbour();
  GoodNeighbour(const GoodNeighbour&) = delete;
  GoodNeighbour& operator=(const GoodNeighbour&) = delete;

 private:
  void work();

  std::unique_ptr<MemoryWatch> watch_;
  ResidencyPolicy policy_;
  std::function<Bytes()> lost_bytes_;
  std::function<void(Bytes)> set_resident_;
  std::mutex mutex_;
  std::condition_variable stopping_;
  bool stop_ = false;
  std::thread thread_;  // last: it uses all the others
};

}  // namespace prima::weights

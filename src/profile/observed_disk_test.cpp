// Generation on a simulated disk, in simulated time: the slots and the counting are the real ones.
#include "profile/observed_disk.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>

#include <gtest/gtest.h>

#include "weights/reading_time.h"
#include "weights/slot_ring.h"

namespace prima::profile {
namespace {

constexpr std::size_t kQueueDepth = 8;

// One read after the other, each after `latency`, which those of several reads share.
struct Disk {
  double bytes_per_second = 300e6;
  double latency = 0;
  // Throttled: so much of what it was not asked for while idle comes at `burst_bytes_per_second`.
  Bytes allowance = 0;
  double burst_bytes_per_second = 3e9;
};

class SimulatedDisk {
 public:
  explicit SimulatedDisk(const Disk& disk)
      : disk_(disk), saved_(static_cast<double>(disk.allowance)) {}

  double end_of(Bytes size, double now) {
    const double begin = std::max(now, free_at_);
    saved_ = std::min(static_cast<double>(disk_.allowance),
                      saved_ + (begin - free_at_) * disk_.bytes_per_second);
    const double saved = std::min(saved_, static_cast<double>(size));
    saved_ -= saved;
    free_at_ = begin + saved / disk_.burst_bytes_per_second +
               (static_cast<double>(size) - saved) / disk_.bytes_per_second;
    return free_at_ + disk_.latency;
  }

 private:
  const Disk disk_;
  double free_at_ = 0;
  double saved_;
};

struct Device {
  Disk disk{};
  Bytes stage = 8 * kMiB;
  std::size_t n_stages = 20;
  Bytes slots = 32 * kMiB;
  double compute_seconds = 2e-3;  // of a stage
  double others_seconds = 0;      // after all stages
  bool direct = true;
};

class Generation {
 public:
  explicit Generation(const Device& device)
      : device_(device),
        disk_(device.disk),
        ring_(std::vector<weights::StageLayout>(device.n_stages, {{{0, 0, device.stage}}}),
              {.capacity = device.slots, .mirrored = true}),
        reading_(std::min<std::size_t>(kQueueDepth, device.slots / kMiB) / 2) {
    read();
  }

  void token() {
    for (weights::StageIndex stage = 0; stage < device_.n_stages; ++stage) {
      const double begin = now_;
      const Bytes bytes = bytes_now();
      while (ring_.acquire(stage).readiness != weights::SlotRing::Readiness::ready) {
        ASSERT_FALSE(in_flight_.empty());
        go_on_to(in_flight_.front().end);
      }
      waited_ += now_ - begin;
      bytes_while_waiting_ += bytes_now() - bytes;
      go_on_to(now_ + device_.compute_seconds);
      ring_.release(stage);
      read();
    }
    go_on_to(now_ + device_.others_seconds);
  }

  void sleep(double seconds) { go_on_to(now_ + seconds); }
  Instant now() const { return at(now_); }
  compute::WeightReads reads() const {
    const auto totals = reading_.totals(now());
    return {.waited = at(waited_) - Instant(),
            .bytes = totals.bytes,
            .busy = totals.busy,
            .queue_full = totals.queue_full,
            .direct = device_.direct};
  }
  // What came during waits over how long they took.
  double speed_while_waiting() const { return static_cast<double>(bytes_while_waiting_) / waited_; }

 private:
  struct InFlight {
    double end;
    std::uint64_t tag;
    Bytes size;
  };

  static Instant at(double seconds) {
    return Instant(std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds)));
  }
  Bytes bytes_now() const { return reading_.totals(now()).bytes; }

  void read() {
    while (in_flight_.size() < kQueueDepth) {
      const auto read = ring_.next_read();
      if (!read) break;
      reading_.began(1, now());
      in_flight_.push_back({disk_.end_of(read->size, now_), read->tag, read->size});
    }
  }

  void go_on_to(double end) {
    while (!in_flight_.empty() && in_flight_.front().end <= end) {
      const InFlight done = in_flight_.front();
      in_flight_.pop_front();
      now_ = std::max(now_, done.end);
      reading_.ended(done.size, now());
      ring_.complete(done.tag, {});
      read();
    }
    now_ = end;
  }

  const Device device_;
  SimulatedDisk disk_;
  weights::SlotRing ring_;
  weights::ReadingTime reading_;
  std::deque<InFlight> in_flight_;
  double now_ = 0;
  double waited_ = 0;
  Bytes bytes_while_waiting_ = 0;
};

// The figure after a run with this profile; `between`: what happens after each token.
double learned(double profiled, const Device& device, int tokens = 40,
               const std::function<void(Generation&, int)>& between = {}) {
  ObservedDisk observed(profiled);
  Generation generation(device);
  for (int i = 0; i < tokens; ++i) {
    generation.token();
    observed.add(generation.now(), generation.reads());
    if (between) between(generation, i);
  }
  return profiled * observed.correction().value_or(1);
}

double learned_in_runs(double profiled, const Device& device, int runs) {
  for (int i = 0; i < runs; ++i) profiled = learned(profiled, device);
  return profiled;
}

TEST(ObservedDisk, ComesToTheTruthInAFewRunsAndStays) {
  for (const double wrong : {60e6, 150e6, 700e6, 2e9}) {
    EXPECT_NEAR(learned(wrong, {}), std::sqrt(wrong * 300e6), 0.03 * std::sqrt(wrong * 300e6));
    EXPECT_NEAR(learned_in_runs(wrong, {}, 6), 300e6, 36e6) << wrong;
  }
  for (const double about_right : {280e6, 300e6, 320e6}) {
    EXPECT_EQ(learned_in_runs(about_right, {}, 6), about_right);
  }
}

TEST(ObservedDisk, IsNeverFarOffAtOnce) {
  EXPECT_GT(learned(300e9, {}), 100e9);
  EXPECT_LT(learned(1e6, {}), 3e6);
}

// Reading goes on while layers are computed, and what was in flight then comes during the next
// wait: by what comes during waits, a disk looks faster than it is.
TEST(ObservedDisk, CountsNoBytesForTheWrongTime) {
  const Device device{.compute_seconds = 26e-3};  // reading a stage takes 28 ms
  Generation generation(device);
  for (int i = 0; i < 40; ++i) generation.token();
  ASSERT_GT(generation.speed_while_waiting(), 1.2 * 300e6);
  EXPECT_EQ(learned(300e6, device), 300e6);
  EXPECT_NEAR(learned(600e6, device), std::sqrt(2.) * 300e6, 15e6);
  EXPECT_NEAR(learned(150e6, device), std::sqrt(.5) * 300e6, 10e6);
}

// Of a disk that is idle for half of the time nobody knows what more it could do; that it does as
// much as it does is known.
TEST(ObservedDisk, LearnsOnlyWhatItSeesFromADiskThatIsNotTheLimit) {
  const Device idle{.compute_seconds = 56e-3};
  EXPECT_EQ(learned(300e6, idle), 300e6);
  EXPECT_EQ(learned(200e6, idle), 200e6);
  EXPECT_EQ(learned(2e9, idle), 2e9);
  const double seen = 8 * kMiB / 56e-3;
  EXPECT_NEAR(learned(seen / 4, idle), seen / 2, 0.05 * seen);
  // Others compute for most of the time, and the slots are full long before.
  const Device in_a_ring{.n_stages = 10, .others_seconds = 1};
  EXPECT_EQ(learned(300e6, in_a_ring), 300e6);
  EXPECT_EQ(learned(150e6, in_a_ring), 150e6);
}

// A slot as large as a stage: the queue runs dry at each stage's end, and a far disk gives less.
TEST(ObservedDisk, DoesNotBlameTheDiskForSmallSlots) {
  const Device small{
      .disk = {.bytes_per_second = 1e9, .latency = 5e-3}, .stage = 6 * kMiB, .slots = 6 * kMiB};
  EXPECT_EQ(learned(1e9, small), 1e9);
  // Slots for a single read: that is how the plan reads.
  const Device single{.disk = {.bytes_per_second = 1e9, .latency = 3e-3},
                      .stage = kMiB,
                      .n_stages = 200,
                      .slots = 2 * kMiB,
                      .compute_seconds = 2e-4};
  EXPECT_LT(learned(1e9, single), 1e9);
}

TEST(ObservedDisk, DoesNotTakeAnAllowanceForSpeed) {
  const Disk throttled{.allowance = 30 * kMiB};
  // What it saves up in each pause is a good part of what is read in the next token.
  const Device pauses{.disk = throttled, .n_stages = 10, .others_seconds = 0.1};
  EXPECT_EQ(learned(300e6, pauses), 300e6);
  const Device long_pauses{.disk = throttled, .n_stages = 10, .others_seconds = 0.5};
  EXPECT_EQ(learned(300e6, long_pauses), 300e6);
  EXPECT_NEAR(learned(900e6, {.disk = throttled}), std::sqrt(3.) * 300e6, 15e6);
}

TEST(ObservedDisk, WaitsBetweenRequestsChangeNothing) {
  const auto sleep = [](Generation& generation, int i) {
    if (i % 5 == 4) generation.sleep(60);
  };
  EXPECT_EQ(learned(300e6, {}, 40, sleep), 300e6);
  EXPECT_NEAR(learned(600e6, {}, 40, sleep), std::sqrt(2.) * 300e6, 15e6);
  EXPECT_NEAR(learned(150e6, {}, 40, sleep), std::sqrt(.5) * 300e6, 10e6);
}

// Through the file cache weights may come faster than from disk, and then slower again.
TEST(ObservedDisk, BelievesTheFileCacheOnlyWhereItIsSlow) {
  const Device cached{.disk = {.bytes_per_second = 5e9}, .compute_seconds = 0, .direct = false};
  EXPECT_EQ(learned(300e6, cached), 300e6);
  EXPECT_NEAR(learned(600e6, {.direct = false}), std::sqrt(2.) * 300e6, 15e6);
}

TEST(ObservedDisk, NeedsEnoughOfIt) {
  EXPECT_EQ(learned(900e6, {}, 8),
            900e6);  // 160 MiB each; the first begins at the first token's end
  EXPECT_LT(learned(900e6, {}, 9), 900e6);
  EXPECT_EQ(learned(900e6, {.n_stages = 1, .slots = 16 * kMiB}, 60), 900e6);  // 8 MiB each
  EXPECT_EQ(learned(0, {}), 0);
}

TEST(ObservedDisk, LeavesOutSpansInWhichOthersRead) {
  ObservedDisk observed(900e6);
  Generation generation({});
  for (int i = 0; i < 40; ++i) {
    generation.token();
    auto reads = generation.reads();
    reads.others = static_cast<Bytes>(i) * kMiB;
    observed.add(generation.now(), reads);
  }
  EXPECT_FALSE(observed.correction());
}

}  // namespace
}  // namespace prima::profile

#include "weights/pressure.h"

#include <gtest/gtest.h>

namespace prima::weights {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A machine of 16 GiB on which another program's memory is set by the test.
class Machine {
 public:
  explicit Machine(Bytes wanted)
      : policy_(wanted, {.reserve = kGiB, .step = 64 * kMiB, .calm_time = seconds(10)}) {}

  // Lets time pass in samples of 250 ms.
  void run(Duration time, Bytes others, Duration stalled_per_sample = {}) {
    for (Duration passed{}; passed < time; passed += milliseconds(250)) {
      clock_.advance(milliseconds(250));
      stalled_ += stalled_per_sample;
      if (policy_.decide({16 * kGiB - others, lost_, stalled_}, clock_.now())) ++changes_;
    }
  }
  void lose(Bytes bytes) { lost_ += bytes; }
  Bytes resident() const { return policy_.resident(); }
  int changes() const { return changes_; }

 private:
  ManualClock clock_;
  ResidencyPolicy policy_;
  Duration stalled_{};
  Bytes lost_ = 0;
  int changes_ = 0;
};

TEST(ResidencyPolicy, LeavesThingsAloneWhileThereIsEnough) {
  Machine machine(8 * kGiB);
  machine.run(seconds(60), 4 * kGiB);
  EXPECT_EQ(machine.resident(), 8 * kGiB);
  EXPECT_EQ(machine.changes(), 0);
}

TEST(ResidencyPolicy, GivesUpWhatOthersNeedAtOnce) {
  Machine machine(8 * kGiB);
  machine.run(milliseconds(250), 12 * kGiB);
  EXPECT_EQ(machine.resident(), 3 * kGiB);  // 16 - 12 - reserve
  machine.run(seconds(60), 12 * kGiB);
  EXPECT_EQ(machine.changes(), 1);  // and stays there
}

TEST(ResidencyPolicy, GivesUpEverythingIfItMust) {
  Machine machine(8 * kGiB);
  machine.run(seconds(1), 16 * kGiB);
  EXPECT_EQ(machine.resident(), 0u);
  machine.run(seconds(1), 16 * kGiB);
  EXPECT_EQ(machine.changes(), 1);
}

TEST(ResidencyPolicy, TakesMemoryBackOnlyAfterACalmTime) {
  Machine machine(8 * kGiB);
  machine.run(seconds(1), 12 * kGiB);
  machine.run(seconds(9), 2 * kGiB);
  EXPECT_EQ(machine.resident(), 3 * kGiB);
  machine.run(seconds(60), 2 * kGiB);
  EXPECT_EQ(machine.resident(), 8 * kGiB);
}

TEST(ResidencyPolicy, AProgramThatComesAndGoesDoesNotMakeItSwing) {
  Machine machine(8 * kGiB);
  for (int i = 0; i < 20; ++i) {
    machine.run(seconds(5), 12 * kGiB);
    machine.run(seconds(5), 2 * kGiB);
  }
  EXPECT_EQ(machine.changes(), 1);
}

TEST(ResidencyPolicy, StallsCountWhereMemoryIsTight) {
  Machine tight(8 * kGiB);
  tight.run(seconds(1), 5 * kGiB, milliseconds(100));
  EXPECT_LT(tight.resident(), 8 * kGiB);
  Machine ample(2 * kGiB);
  ample.run(seconds(1), 2 * kGiB, milliseconds(100));
  EXPECT_EQ(ample.resident(), 2 * kGiB);  // others stall for reasons of their own
}

TEST(ResidencyPolicy, WhatTheSystemTookIsGivenUpAndComesBackLater) {
  Machine machine(8 * kGiB);
  machine.run(seconds(1), 2 * kGiB);
  machine.lose(500 * kMiB);
  machine.run(seconds(1), 2 * kGiB);
  EXPECT_EQ(machine.resident(), 8 * kGiB - 500 * kMiB);
  machine.run(seconds(30), 2 * kGiB);
  EXPECT_EQ(machine.resident(), 8 * kGiB);
}

TEST(SystemMemoryWatch, Answers) {
  const auto sample = system_memory_watch()->sample();
  ASSERT_TRUE(sample) << sample.error().message();
  EXPECT_GT(sample->available, 0u);
}

// The thread, with a watch that says memory is short.
TEST(GoodNeighbour, CallsWhenMemoryIsShort) {
  struct Short final : MemoryWatch {
    Result<MemorySample> sample() override { return MemorySample{.available = 2 * kGiB}; }
  };
  std::mutex mutex;
  std::condition_variable called;
  std::optional<Bytes> resident;
  GoodNeighbour neighbour(
      std::make_unique<Short>(), 2 * kGiB, {.reserve = kGiB}, [] { return Bytes{0}; },
      [&](Bytes bytes) {
        const std::lock_guard lock(mutex);
        resident = bytes;
        called.notify_all();
      });
  std::unique_lock lock(mutex);
  ASSERT_TRUE(called.wait_for(lock, seconds(30), [&] { return resident.has_value(); }));
  EXPECT_EQ(*resident, kGiB);
}

}  // namespace
}  // namespace prima::weights

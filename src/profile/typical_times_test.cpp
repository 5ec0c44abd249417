#include "profile/typical_times.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace prima::profile {
namespace {

using std::chrono::milliseconds;

// A machine that takes so long for each kind of thing, and much longer when it is disturbed.
class Machine {
 public:
  explicit Machine(std::vector<double> seconds)
      : seconds_(std::move(seconds)), runs_(seconds_.size()) {}

  // The n-th run of kind i from now on (the first is 0) takes `by` times as long; told or not.
  void disturb(std::size_t i, int n, double by, bool told) {
    disturbances_.push_back({i, runs_[i] + n, by, told});
  }

  Result<Repetition> run(std::size_t i) {
    Repetition repetition{.seconds = seconds_[i]};
    for (const Disturbance& disturbance : disturbances_) {
      if (disturbance.kind != i || disturbance.run != runs_[i]) continue;
      repetition.seconds *= disturbance.by;
      repetition.disturbed = disturbance.told;
    }
    ++runs_[i];
    clock_.advance(
        std::chrono::duration_cast<Duration>(std::chrono::duration<double>(repetition.seconds)));
    return repetition;
  }

  std::vector<double> measure(Duration budget) {
    return typical_times(seconds_.size(), budget, clock_, [this](std::size_t i) { return run(i); })
        .value();
  }

  int runs(std::size_t i) const { return runs_[i]; }
  const Clock& clock() const { return clock_; }

 private:
  struct Disturbance {
    std::size_t kind;
    int run;
    double by;
    bool told;
  };
  std::vector<double> seconds_;
  std::vector<int> runs_;
  std::vector<Disturbance> disturbances_;
  ManualClock clock_;
};

// As seen on a device with a share of a processor: a stall of ten times a layer's time.
TEST(TypicalTimes, ShortThingsOutlastStallsWithoutABudget) {
  Machine machine({0.008, 0.8});
  // Run 0 comes before all, run 1 is the first.
  for (const int n : {1, 3, 5}) machine.disturb(0, n, 10, false);
  const auto times = machine.measure({});
  EXPECT_DOUBLE_EQ(times[0], 0.008);
  EXPECT_DOUBLE_EQ(times[1], 0.8);
  EXPECT_EQ(machine.runs(1), 1);  // long: no more than that
}

TEST(TypicalTimes, WhatIsKnownToBeDisturbedDoesNotCount) {
  Machine machine({0.1});
  for (const int n : {2, 3, 5, 6}) machine.disturb(0, n, 3, true);
  EXPECT_DOUBLE_EQ(machine.measure(milliseconds(1500))[0], 0.1);

  Machine always({0.1});  // nothing else to go by
  for (int n = 0; n < 40; ++n) always.disturb(0, n, 3, true);
  EXPECT_DOUBLE_EQ(always.measure(milliseconds(1500))[0], 0.3);
}

TEST(TypicalTimes, WaitingForWeightsIsNoComputing) {
  const compute::WeightReads before{.waited = milliseconds(100), .bytes = 5, .others = 3};
  compute::WeightReads after{.waited = milliseconds(700), .bytes = 9, .others = 3};
  const Repetition streamed = repetition_of(milliseconds(1000), 4, before, after);
  EXPECT_DOUBLE_EQ(streamed.seconds, 0.1);  // of each of the four
  EXPECT_FALSE(streamed.disturbed);         // streaming is what is to be

  after.others = 4;  // what is to be in memory had been taken
  EXPECT_TRUE(repetition_of(milliseconds(1000), 4, before, after).disturbed);
}

TEST(TypicalTimes, OfTwoMeasurementsTheLeast) {
  const TokenTimes least = least_of({{1, 2, 9, 4, 5, 6}}, {{3, 2, 1, 4, 7, 5}});
  EXPECT_EQ(least.seconds, (std::array<double, 6>{1, 2, 1, 4, 5, 5}));
}

TEST(TypicalTimes, KeepsToItsBudget) {
  Machine machine({0.1, 0.2});
  const Instant begin = machine.clock().now();
  machine.measure(milliseconds(2000));
  const double taken = seconds(machine.clock().now() - begin);
  EXPECT_LE(taken, 2.0 + 0.1 + 0.3 + 1e-9);  // and one before all, and the first of each
  EXPECT_GE(taken, 2.0);
  EXPECT_GE(machine.runs(0), machine.runs(1));
}

TEST(TypicalTimes, TokensContradictADisturbedTime) {
  // One token can't take longer than two, nor eight longer than four and four.
  TokenTimes times{{0.061, 0.016, 0.030, 0.200, 0.230, 0.800}};
  make_consistent(times);
  EXPECT_EQ(times.seconds, (std::array<double, 6>{0.016, 0.016, 0.030, 0.060, 0.230, 0.800}));

  TokenTimes plausible{{0.008, 0.0155, 0.022, 0.044, 0.140, 0.520}};
  const TokenTimes before = plausible;
  make_consistent(plausible);
  EXPECT_EQ(plausible.seconds, before.seconds);
}

TEST(TypicalTimes, AClassThatTookMuchLongerForItsBytesIsSuspicious) {
  EXPECT_TRUE(suspicious({}).empty());
  EXPECT_TRUE(suspicious({6e-11, 7e-11, 9e-11}).empty());  // kernels of other types
  EXPECT_EQ(suspicious({4e-10, 6e-11, 7e-11}), std::vector<std::size_t>{0});
}

}  // namespace
}  // namespace prima::profile

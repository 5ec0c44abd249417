// The simulator against cases worked out by hand.
#include "plan/simulator.h"

#include <gtest/gtest.h>

namespace prima::plan {
namespace {

constexpr double kMB = 1e6;

// `resident` and `streamed` pieces by turns as evenly as they go, dealt over the rounds.
SimulatedDevice device_of(int resident, int streamed, double piece_bytes, double compute_seconds,
                          double slot_bytes, double disk, std::uint32_t rounds, double hop) {
  SimulatedDevice device;
  device.disk_bytes_per_second = disk;
  device.slot_bytes = static_cast<Bytes>(slot_bytes);
  device.hop.latency_seconds = hop;
  device.visits.resize(rounds);
  const int n = resident + streamed;
  for (int i = 0; i < n; ++i) {
    const bool reads = (i + 1) * streamed / n > i * streamed / n;
    device.visits[static_cast<std::size_t>(i) * rounds / n].push_back(
        {compute_seconds / n, reads ? static_cast<Bytes>(piece_bytes) : 0});
  }
  return device;
}

// DESIGN.md section 1: four devices, each 134 MB short of its share of 1100 MB, disks of 300 MB/s,
// 40 ms to compute, hops of 1 ms.
double design_example(std::uint32_t rounds, double slots_mb) {
  SimulatedRing ring;
  ring.rounds = rounds;
  for (int i = 0; i < 4; ++i) {
    const int streamed = static_cast<int>(134 + slots_mb);
    ring.devices.push_back(
        device_of(1100 - streamed, streamed, kMB, 0.040, slots_mb * kMB, 300 * kMB, rounds, 0.001));
  }
  ring.devices[0].visits.emplace_back();  // no output layer
  return simulate_period(ring);
}

TEST(SimulatePeriod, FourStarvedDevicesOfTheDesign) {
  // Limits of the relaxed model: 4 * 134/300 + 4 ms of hops; then (134 + slots) / 300. Pieces leave
  // a slot only when they are computed, which costs up to 2 % more.
  EXPECT_NEAR(design_example(1, 16), 1.7907, 0.01 * 1.79);
  EXPECT_NEAR(design_example(2, 88), 0.74, 0.02 * 0.74);
  EXPECT_NEAR(design_example(4, 32), 0.56, 0.02 * 0.56);
  EXPECT_NEAR(design_example(8, 16), 0.51, 0.02 * 0.51);
}

TEST(SimulatePeriod, FixedSlotsOf96MBGainNothingFromMoreRounds) {
  EXPECT_NEAR(design_example(2, 96), 230.0 / 300, 0.01);
  EXPECT_NEAR(design_example(4, 96), 230.0 / 300, 0.005);
  EXPECT_NEAR(design_example(8, 96), 230.0 / 300, 0.005);
}

TEST(SimulatePeriod, ResidentDevicesTakeTurns) {
  SimulatedRing ring;
  ring.rounds = 3;
  ring.devices.push_back(device_of(9, 0, 0, 0.030, 0, 1, 3, 0.002));
  ring.devices.push_back(device_of(9, 0, 0, 0.060, 0, 1, 3, 0.004));
  ring.devices[0].visits.push_back({{0.005, 0}});
  EXPECT_NEAR(simulate_period(ring), 0.030 + 0.060 + 0.005 + 3 * 0.006, 1e-9);
}

TEST(SimulatePeriod, OneDeviceStreamsAtTheSlowerOfDiskAndProcessor) {
  for (const double compute : {0.1, 2.0}) {
    SimulatedRing ring;
    ring.devices.push_back(device_of(50, 50, kMB, compute, 8 * kMB, 100 * kMB, 1, 0));
    ring.devices[0].visits.emplace_back();
    EXPECT_NEAR(simulate_period(ring), std::max(compute, 0.5), 0.02);
  }
}

TEST(SimulatePeriod, OneSlotDoesNotOverlapReadingWithComputing) {
  // Four pieces, each read for 10 ms and computed for 10 ms. With one slot they alternate: 80 ms;
  // with two, the reading of one hides behind the computing of the other.
  SimulatedRing ring;
  ring.devices.push_back(device_of(0, 4, kMB, 0.040, 1 * kMB, 100 * kMB, 1, 0));
  ring.devices[0].visits.emplace_back();
  EXPECT_NEAR(simulate_period(ring), 0.080, 1e-9);
  ring.devices[0].slot_bytes = static_cast<Bytes>(2 * kMB);
  EXPECT_NEAR(simulate_period(ring), 0.040, 1e-9);
}

TEST(SimulatePeriod, TheOutputLayerMayBeStreamed) {
  SimulatedRing ring;
  ring.devices.push_back(device_of(10, 0, 0, 0.020, 2 * kMB, 100 * kMB, 1, 0));
  ring.devices[0].visits.push_back({{0.001, 1000000}, {0.001, 1000000}});
  // Both pieces are read (20 ms) while the layers are computed (20 ms).
  EXPECT_NEAR(simulate_period(ring), 0.022, 1e-9);
}

TEST(SimulatePeriod, StepsInFlightKeepResidentDevicesBusy) {
  SimulatedRing ring;
  for (int i = 0; i < 3; ++i) ring.devices.push_back(device_of(1, 0, 0, 0.010, 0, 1, 1, 0));
  ring.devices[0].visits.emplace_back();
  ring.steps = 1;
  EXPECT_NEAR(simulate_period(ring), 0.030, 1e-9);
  ring.steps = 3;
  EXPECT_NEAR(simulate_period(ring), 0.030, 1e-6);  // three tokens in the time of one
  ring.steps = 6;
  EXPECT_NEAR(simulate_period(ring), 0.060, 1e-6);
}

TEST(SimulatePeriod, AWaveReadsAWindowOnceWhereSlotsHoldIt) {
  SimulatedRing ring;
  ring.steps = 4;
  ring.devices.push_back(device_of(0, 4, kMB, 0.004, 4 * kMB, 100 * kMB, 1, 0));
  ring.devices[0].visits.emplace_back();
  EXPECT_NEAR(simulate_period(ring), 0.040 + 3 * 0.004 + 0.004 - 0.003, 0.004);
  ring.devices[0].slot_bytes = static_cast<Bytes>(2 * kMB);
  EXPECT_NEAR(simulate_period(ring), 4 * 0.040, 0.004);  // read again for every step
}

TEST(SimulatePeriod, HopsShareTheAirButNotCables) {
  SimulatedRing ring;
  for (int i = 0; i < 2; ++i) {
    ring.devices.push_back(device_of(1, 0, 0, 0.001, 0, 1, 1, 0));
    ring.devices.back().hop.transmit_seconds[0] = 0.010;
  }
  ring.devices[0].visits.emplace_back();
  ring.steps = 2;
  EXPECT_NEAR(simulate_period(ring), 0.022, 1e-6);
  for (SimulatedDevice& device : ring.devices) device.hop.shared_medium = true;
  EXPECT_NEAR(simulate_period(ring), 0.040, 1e-6);
}

TEST(SimulatePeriod, TheTraceAddsUpToThePeriod) {
  SimulatedRing ring;
  ring.rounds = 2;
  ring.devices.push_back(device_of(20, 10, kMB, 0.030, 4 * kMB, 100 * kMB, 2, 0.002));
  ring.devices.push_back(device_of(20, 30, kMB, 0.050, 4 * kMB, 100 * kMB, 2, 0.003));
  ring.devices[0].visits.push_back({{0.005, 0}});
  std::vector<DeviceTrace> traces;
  const double period = simulate_period(ring, &traces);
  ASSERT_EQ(traces.size(), 2u);
  const double compute[] = {0.035, 0.050};
  const double network[] = {0.004, 0.006};
  for (int i = 0; i < 2; ++i) {
    const TimeShares& time = traces[i].time;
    EXPECT_NEAR(time.compute_seconds, compute[i], 1e-9);
    EXPECT_NEAR(time.network_seconds, network[i], 1e-9);
    EXPECT_NEAR(
        time.compute_seconds + time.disk_wait_seconds + time.network_seconds + time.idle_seconds,
        period, 1e-6);
    double read = 0;
    for (const Span& span : traces[i].spans) {
      EXPECT_GE(span.start_seconds, 0);
      EXPECT_LE(span.end_seconds, period + 1e-9);
      if (span.activity == Activity::disk_read) read += span.end_seconds - span.start_seconds;
    }
    EXPECT_NEAR(read, i == 0 ? 0.10 : 0.30, 1e-6);
  }
}

TEST(SimulatePrompt, StepsOverlapOnResidentDevices) {
  SimulatedRing ring;
  for (int i = 0; i < 3; ++i) ring.devices.push_back(device_of(1, 0, 0, 0.010, 0, 1, 1, 0.001));
  ring.devices[0].visits.push_back({{0.002, 0}});
  ring.steps = 4;
  // The last step waits for three before it on each device, then travels: 4 + 2 turns, 3 hops.
  EXPECT_NEAR(simulate_prompt(ring), 6 * 0.010 + 3 * 0.001 + 0.002, 1e-9);
}

TEST(SimulatePrompt, BeginsWithFullSlotsAndAnIdleDisk) {
  SimulatedRing ring;
  ring.devices.push_back(device_of(0, 10, kMB, 0.001, 4 * kMB, 100 * kMB, 1, 0));
  ring.devices[0].visits.emplace_back();
  // Four pieces are there; a slot is free after 0.1 ms, then six reads of 10 ms.
  EXPECT_NEAR(simulate_prompt(ring), 0.0001 + 6 * 0.010 + 0.0001, 1e-9);
}

TEST(SimulatePrompt, WavesServeRoundAfterRound) {
  SimulatedRing ring;
  ring.rounds = 2;
  ring.steps = 2;
  for (int i = 0; i < 2; ++i) {
    ring.devices.push_back(device_of(0, 4, kMB, 0.004, 2 * kMB, 1e12, 2, 0));
  }
  ring.devices[0].visits.push_back({{0.001, 0}});
  // Disks so fast that only turns count: windows of 2 ms, two devices, 2 rounds, 2 steps.
  EXPECT_NEAR(simulate_prompt(ring), 0.002 * 5 + 0.001, 1e-5);
}

TEST(SimulatePrompt, TheOnlyOutputOfSeveralStepsIsReadToo) {
  SimulatedRing ring;
  ring.steps = 2;
  ring.devices.push_back(device_of(0, 4, kMB, 1e-9, 2 * kMB, 100 * kMB, 1, 0));
  ring.devices[0].visits.push_back({{1e-9, 1000000}, {1e-9, 1000000}});
  // Two times four pieces and two, less the two that the slots hold, of 10 ms each.
  EXPECT_NEAR(simulate_prompt(ring), 0.080, 1e-6);
}

TEST(CriticalPath, IsExactWhereNothingIsStreamedAndNoAirIsShared) {
  SimulatedRing ring;
  ring.rounds = 3;
  ring.steps = 4;
  for (const double compute : {0.030, 0.050, 0.010}) {
    ring.devices.push_back(device_of(7, 0, 0, compute, 0, 1, 3, 0.002));
    ring.devices.back().hop.transmit_seconds[0] = 0.004;
  }
  ring.devices[0].visits.push_back({{0.005, 0}});
  EXPECT_NEAR(least_prompt(ring), simulate_prompt(ring), 1e-9);
  ring.steps = 1;
  EXPECT_NEAR(least_prompt(ring), simulate_prompt(ring), 1e-9);
  EXPECT_NEAR(least_period(ring), simulate_period(ring), 1e-9);
}

TEST(CriticalPath, CountsDisksAndTheAir) {
  SimulatedRing ring;
  ring.rounds = 2;
  for (int i = 0; i < 2; ++i) {
    ring.devices.push_back(device_of(20, 30, kMB, 0.004, 4 * kMB, 100 * kMB, 2, 0));
  }
  ring.devices[0].visits.emplace_back();
  // Of each window's 15 pieces, 11 are read in its turn.
  EXPECT_NEAR(least_prompt(ring), simulate_prompt(ring), 0.02 * simulate_prompt(ring));
  EXPECT_LE(least_prompt(ring), simulate_prompt(ring));
  EXPECT_LE(least_period(ring), simulate_period(ring));
  EXPECT_NEAR(least_period(ring), 4 * 0.110, 1e-9);
  ring.steps = 8;
  for (SimulatedDevice& device : ring.devices) {
    for (auto& visit : device.visits) visit = {{1e-6, 0}};
    device.hop.shared_medium = true;
    device.hop.transmit_seconds[0] = 0.010;
  }
  // Eight steps over four hops, but the last hop for the last step only.
  EXPECT_NEAR(simulate_prompt(ring), 25 * 0.010, 1e-4);
  EXPECT_NEAR(least_prompt(ring), 25 * 0.010, 1e-4);
}

}  // namespace
}  // namespace prima::plan

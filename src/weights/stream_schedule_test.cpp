#include "weights/stream_schedule.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace prima::weights {
namespace {

Bytes sum(const std::vector<Bytes>& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), Bytes{0});
}

void expect_sound(const StreamSchedule& schedule, const std::vector<Bytes>& sizes, Bytes budget) {
  Bytes streamed = 0;
  Bytes largest = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (!schedule.streamed[i]) continue;
    streamed += sizes[i];
    largest = std::max(largest, sizes[i]);
  }
  EXPECT_EQ(schedule.streamed_bytes, streamed);
  EXPECT_EQ(schedule.resident_bytes, sum(sizes) - streamed);
  EXPECT_LE(schedule.memory_bytes(), budget);
  EXPECT_GE(schedule.slot_bytes, largest);
}

// The stages of a model like Llama 3 8B Q4_K, in MiB: attention in, attention out, gate, up, down.
std::vector<Bytes> layers_of_8b(int n_layers) {
  std::vector<Bytes> sizes;
  for (int i = 0; i < n_layers; ++i) {
    for (const Bytes mib : {14, 9, 32, 32, i % 2 == 0 ? 46 : 32}) sizes.push_back(mib * kMiB);
  }
  return sizes;
}

TEST(StreamSchedule, StreamsNothingIfAllFits) {
  const auto sizes = layers_of_8b(4);
  auto schedule = schedule_streaming(sizes, sum(sizes));
  ASSERT_TRUE(schedule);
  EXPECT_EQ(schedule->streamed_bytes, 0u);
  EXPECT_EQ(schedule->slot_bytes, 0u);
}

TEST(StreamSchedule, StreamsSmallStagesFirstSoThatSlotsAreSmall) {
  const auto sizes = layers_of_8b(8);
  auto schedule = schedule_streaming(sizes, sum(sizes) - 40 * kMiB);
  ASSERT_TRUE(schedule) << schedule.error().message();
  expect_sound(*schedule, sizes, sum(sizes) - 40 * kMiB);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    EXPECT_TRUE(!schedule->streamed[i] || sizes[i] <= 14 * kMiB);
  }
  EXPECT_LE(schedule->streamed_bytes, 40 * kMiB + schedule->slot_bytes + 9 * kMiB);
}

TEST(StreamSchedule, KeepsAHugeOutputLayerResident) {
  auto sizes = layers_of_8b(8);
  sizes.push_back(430 * kMiB);
  const Bytes budget = 600 * kMiB;
  auto schedule = schedule_streaming(sizes, budget);
  ASSERT_TRUE(schedule) << schedule.error().message();
  expect_sound(*schedule, sizes, budget);
  EXPECT_FALSE(schedule->streamed.back());
}

TEST(StreamSchedule, RefusesTooLittleWithTheFigureThatIsEnough) {
  auto sizes = layers_of_8b(8);
  const Bytes enough = smallest_stream_budget(sizes);
  EXPECT_EQ(enough, 46 * kMiB);
  auto schedule = schedule_streaming(sizes, enough - 1);
  ASSERT_FALSE(schedule);
  EXPECT_EQ(schedule.error().code, ErrorCode::resource_exhausted);
  EXPECT_THAT(schedule.error().remedy, testing::HasSubstr(std::to_string(enough)));
  schedule = schedule_streaming(sizes, enough);
  ASSERT_TRUE(schedule) << schedule.error().message();
  expect_sound(*schedule, sizes, enough);
}

TEST(StreamSchedule, TakesThePlansSlots) {
  const auto sizes = layers_of_8b(8);
  const Bytes budget = sum(sizes) - 134 * kMiB;
  auto schedule = schedule_streaming(sizes, budget, 32 * kMiB);
  ASSERT_TRUE(schedule) << schedule.error().message();
  expect_sound(*schedule, sizes, budget);
  EXPECT_EQ(schedule->slot_bytes, 32 * kMiB);
  EXPECT_FALSE(schedule_streaming(sizes, budget, 8 * kMiB));
}

TEST(StreamSchedule, ChangesInOneDirectionOnly) {
  const auto sizes = layers_of_8b(16);
  const Bytes slots = 64 * kMiB;
  auto before = schedule_streaming(sizes, sum(sizes) / 2, slots);
  ASSERT_TRUE(before) << before.error().message();
  for (const Bytes budget : {sum(sizes) / 3, sum(sizes) * 3 / 4}) {
    auto after = schedule_streaming(sizes, budget, slots, &before->streamed);
    ASSERT_TRUE(after) << after.error().message();
    expect_sound(*after, sizes, budget);
    EXPECT_GT(after->memory_bytes(), budget - 47 * kMiB);
    int more = 0;
    int fewer = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      more += after->streamed[i] && !before->streamed[i] ? 1 : 0;
      fewer += !after->streamed[i] && before->streamed[i] ? 1 : 0;
    }
    EXPECT_EQ(std::min(more, fewer), 0);
    EXPECT_GT(std::max(more, fewer), 0);
  }
}

std::vector<StageTiming> timings(const std::vector<Bytes>& sizes, const std::vector<bool>& streamed,
                                 double memory_bytes_per_second) {
  std::vector<StageTiming> cycle;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    cycle.push_back(
        {sizes[i], streamed[i], static_cast<double>(sizes[i]) / memory_bytes_per_second, 0});
  }
  return cycle;
}

TEST(SteadyState, IsTheLargerOfDiskAndComputeWithComfortableSlots) {
  const auto sizes = layers_of_8b(32);
  for (const double share : {0.3, 0.7, 0.9, 0.97}) {
    const auto budget = static_cast<Bytes>(share * static_cast<double>(sum(sizes)));
    auto schedule = schedule_streaming(sizes, budget);
    ASSERT_TRUE(schedule);
    expect_sound(*schedule, sizes, budget);
    for (const double disk : {3e8, 1.9e9, 7e9}) {
      constexpr double kMemory = 1e10;
      const double seconds = steady_state_seconds(timings(sizes, schedule->streamed, kMemory),
                                                  schedule->slot_bytes, disk);
      const double limit = std::max(static_cast<double>(schedule->streamed_bytes) / disk,
                                    static_cast<double>(sum(sizes)) / kMemory);
      EXPECT_GE(seconds, limit * 0.999);
      // The worst is where disk and computing take equally long and neither has slack.
      EXPECT_LE(seconds, limit * 1.10) << share << " " << disk;
    }
  }
}

TEST(SteadyState, RoundsUseTheSameSlotSeveralTimes) {
  // One device of four, as in DESIGN.md: per round some streamed bytes, then the others' turn.
  const auto cycle_of = [](int rounds) {
    std::vector<StageTiming> cycle;
    for (int i = 0; i < 16; ++i) {
      cycle.push_back({10 * kMiB, true, 0.0025, 0});
      const bool end_of_window = (i + 1) % (16 / rounds) == 0;
      if (end_of_window) cycle.back().gap_seconds = 0.5 / rounds;
    }
    return cycle;
  };
  const double once = steady_state_seconds(cycle_of(1), 40 * kMiB, 3e8);
  const double four_times = steady_state_seconds(cycle_of(4), 40 * kMiB, 3e8);
  EXPECT_NEAR(four_times, 160.0 * kMiB / 3e8, 0.02);  // the disk never rests
  EXPECT_GT(once, 1.5 * four_times);
}

// DESIGN.md section 1: four devices, 40 ms of computing each, 134 MB too little memory each, read
// at 300 MB/s. Slots and rounds are chosen together.
TEST(FastestSchedule, MoreRoundsNeedFewerSlotsAndLessTime) {
  const std::vector<Bytes> sizes(128, 4 * kMiB);
  const Bytes budget = sum(sizes) - 128 * kMiB;
  Bytes slots_before = kGiB;
  double seconds_before = 10;
  for (const std::size_t rounds : {1, 2, 4, 8}) {
    StreamConditions conditions{.disk_bytes_per_second = 3e8,
                                .compute_bytes_per_second = static_cast<double>(sum(sizes)) / 0.04,
                                .share = 0.25};
    for (std::size_t i = 1; i <= rounds; ++i) {
      conditions.window_ends.push_back(i * sizes.size() / rounds - 1);
    }
    const auto schedule = fastest_schedule(sizes, budget, conditions);
    ASSERT_TRUE(schedule) << schedule.error().message();
    expect_sound(*schedule, sizes, budget);
    // In the balance the four devices' turns make up the cycle.
    std::vector<StageTiming> cycle = timings(sizes, schedule->streamed, 12.8 * kGiB);
    double low = 0;
    double high = 10;
    for (int i = 0; i < 40; ++i) {
      const double gaps = (low + high) / 2;
      for (const std::size_t end : conditions.window_ends) {
        cycle[end].gap_seconds = gaps / static_cast<double>(rounds);
      }
      const double active = steady_state_seconds(cycle, schedule->slot_bytes, 3e8) - gaps;
      (3 * active > gaps ? low : high) = gaps;
    }
    const double seconds = low * 4 / 3;
    EXPECT_LT(seconds, seconds_before) << rounds;
    if (rounds > 1) {
      EXPECT_LE(schedule->slot_bytes, slots_before) << rounds;
      slots_before = schedule->slot_bytes;
    }
    if (rounds == 8) {
      EXPECT_LT(seconds, 1.25 * 128.0 * kMiB / 3e8);
    }
    seconds_before = seconds;
  }
}

// A quarter of a model of 70B on a device of 4 GiB, 20 rounds: with slots that are memory of the
// program's own the disk rests for most of the time, in place it hardly does.
TEST(FastestSchedule, InPlaceSlotsAreAsLargeAsTheDiskCanUse) {
  std::vector<Bytes> sizes;
  for (int layer = 0; layer < 20; ++layer) sizes.insert(sizes.end(), 30, 16 * kMiB);
  const Bytes budget = 3700 * kMiB;
  StreamConditions conditions{
      .disk_bytes_per_second = 4e8, .compute_bytes_per_second = 8e9, .share = 0.25};
  for (std::size_t end = 29; end < sizes.size(); end += 30) conditions.window_ends.push_back(end);
  const auto own = fastest_schedule(sizes, budget, conditions);
  conditions.can_be_in_place = true;
  const auto in_place = fastest_schedule(sizes, budget, conditions);
  ASSERT_TRUE(own && in_place);
  expect_sound(*in_place, sizes, budget);
  EXPECT_LE(own->slot_bytes, most_own_slot_bytes(budget));
  EXPECT_GT(in_place->slot_bytes, 5 * own->slot_bytes / 4);
  EXPECT_LT(in_place->slot_bytes, 3 * own->slot_bytes);
}

TEST(FastestSchedule, AloneIsAsGoodAsComfortableSlots) {
  const auto sizes = layers_of_8b(32);
  for (const double disk : {3e8, 2e9}) {
    for (const double share : {0.3, 0.7, 0.95}) {
      const auto budget = static_cast<Bytes>(share * static_cast<double>(sum(sizes)));
      const auto comfortable = schedule_streaming(sizes, budget);
      const auto fastest = fastest_schedule(
          sizes, budget, {.disk_bytes_per_second = disk, .compute_bytes_per_second = 1e10});
      ASSERT_TRUE(comfortable && fastest);
      expect_sound(*fastest, sizes, budget);
      const auto seconds = [&](const StreamSchedule& schedule) {
        return steady_state_seconds(timings(sizes, schedule.streamed, 1e10), schedule.slot_bytes,
                                    disk);
      };
      EXPECT_LE(seconds(*fastest), 1.01 * seconds(*comfortable)) << disk << " " << share;
    }
  }
}

// Against every possible choice of streamed stages, on small cycles.
TEST(StreamSchedule, IsNearlyAsGoodAsTheBestChoice) {
  std::mt19937 random(7);
  const auto between = [&](std::uint64_t low, std::uint64_t high) {
    return std::uniform_int_distribution<std::uint64_t>(low, high)(random);
  };
  for (int i = 0; i < 200; ++i) {
    SCOPED_TRACE(i);
    std::vector<Bytes> sizes(between(2, 10));
    const std::vector<Bytes> kinds = {between(1, 40) * kMiB, between(1, 40) * kMiB};
    for (Bytes& size : sizes) size = kinds[between(0, 1)];
    const Bytes budget = between(smallest_stream_budget(sizes), sum(sizes));
    auto schedule = schedule_streaming(sizes, budget);
    ASSERT_TRUE(schedule) << schedule.error().message();
    expect_sound(*schedule, sizes, budget);
    if (schedule->streamed_bytes == 0) continue;

    const double disk = static_cast<double>(between(200, 4000)) * 1e6;
    constexpr double kMemory = 1e10;
    double best = INFINITY;
    Bytes largest = 0;
    for (unsigned choice = 1; choice < (1u << sizes.size()); ++choice) {
      std::vector<bool> streamed(sizes.size());
      Bytes streamed_bytes = 0;
      Bytes needed_slots = 0;
      for (std::size_t stage = 0; stage < sizes.size(); ++stage) {
        streamed[stage] = (choice >> stage) & 1;
        if (!streamed[stage]) continue;
        streamed_bytes += sizes[stage];
        needed_slots = std::max(needed_slots, sizes[stage]);
      }
      if (sum(sizes) - streamed_bytes + needed_slots > budget) continue;
      const Bytes slots = std::min(budget - (sum(sizes) - streamed_bytes), 2 * needed_slots);
      best = std::min(best, steady_state_seconds(timings(sizes, streamed, kMemory), slots, disk));
      largest = std::max(largest, needed_slots);
    }
    const double ours = steady_state_seconds(timings(sizes, schedule->streamed, kMemory),
                                             schedule->slot_bytes, disk);
    // A choice is made in whole stages, and comfortable slots cost up to one more.
    EXPECT_LE(ours, best + 2.0 * static_cast<double>(largest) / disk);
  }
}

}  // namespace
}  // namespace prima::weights

#include "ring/micro_batch.h"

#include <numeric>

#include <gtest/gtest.h>

namespace prima::ring {
namespace {

double prefill_time(std::uint32_t n_tokens, std::uint32_t size, std::uint32_t n_devices,
                    std::uint32_t rounds) {
  const double n_parts = static_cast<double>(n_tokens) / size;
  return (n_parts + (n_devices - 1.0) / rounds) * (kStepCostTokens + size);
}

TEST(MicroBatch, LeavesStepsWholeWhereCuttingDoesNotPay) {
  EXPECT_EQ(micro_batch_tokens(512, 1, 1), 512u);
  EXPECT_EQ(micro_batch_tokens(1, 4, 1), 1u);
  EXPECT_EQ(micro_batch_tokens(16, 4, 1), 16u);
}

TEST(MicroBatch, IsCloseToTheBestSize) {
  for (const std::uint32_t n_tokens : {17u, 64u, 100u, 512u, 2048u}) {
    for (const std::uint32_t n_devices : {2u, 3u, 4u, 8u}) {
      for (const std::uint32_t rounds : {1u, 2u, 8u}) {
        const std::uint32_t chosen = micro_batch_tokens(n_tokens, n_devices, rounds);
        ASSERT_GE(chosen, 1u);
        ASSERT_LE(chosen, n_tokens);
        double best = prefill_time(n_tokens, n_tokens, n_devices, rounds);
        for (std::uint32_t size = 16; size < n_tokens; ++size) {
          best = std::min(best, prefill_time(n_tokens, size, n_devices, rounds));
        }
        EXPECT_LE(prefill_time(n_tokens, chosen, n_devices, rounds), 1.05 * best)
            << n_tokens << " tokens, " << n_devices << " devices, " << rounds
            << " rounds: " << chosen;
      }
    }
  }
}

TEST(MicroBatch, IsCutWithoutLoss) {
  compute::Step step{.id = 9,
                     .kv_operations = {{compute::KvOperation::Kind::remove, 1, 0, 0, 9}},
                     .sequences = std::vector<std::int32_t>(10, 1),
                     .positions = std::vector<std::int32_t>(10),
                     .cells = std::vector<std::uint32_t>(10),
                     .n_kv = 256,
                     .outputs = {0, 3, 4, 9}};
  std::iota(step.positions.begin(), step.positions.end(), 5);
  std::iota(step.cells.begin(), step.cells.end(), 7u);
  const auto parts = cut(step, 4);
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(parts[0].kv_operations, step.kv_operations);
  EXPECT_TRUE(parts[1].kv_operations.empty());
  EXPECT_EQ(parts[0].outputs, (std::vector<std::uint32_t>{0, 3}));
  EXPECT_EQ(parts[1].outputs, (std::vector<std::uint32_t>{0}));
  EXPECT_EQ(parts[2].outputs, (std::vector<std::uint32_t>{1}));
  EXPECT_EQ(parts[2].positions, (std::vector<std::int32_t>{13, 14}));
  EXPECT_EQ(parts[1].cells, (std::vector<std::uint32_t>{11, 12, 13, 14}));
  EXPECT_EQ(cut(step, 10), std::vector{step});
}

TEST(MicroBatch, WouldBeReadAgainWhereSlotsAreSmall) {
  EXPECT_TRUE(keeps_its_windows({}, 1));
  EXPECT_TRUE(keeps_its_windows({.slots = 50, .streamed = 100}, 2));
  EXPECT_FALSE(keeps_its_windows({.slots = 49, .streamed = 100}, 2));
}

}  // namespace
}  // namespace prima::ring

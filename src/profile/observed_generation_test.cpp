#include "profile/observed_generation.h"

#include <gtest/gtest.h>

namespace prima::profile {
namespace {

// Two classes; the second's layers take twice as long, and steps of more tokens longer.
DeviceProfile some_profile() {
  LayerTimes small;
  small.short_context_seconds = {{1e-3, 1.2e-3, 2e-3, 4e-3, 16e-3, 64e-3}};
  small.long_context_seconds = {{2e-3, 2.2e-3, 3e-3, 5e-3, 17e-3, 65e-3}};
  small.long_context_tokens = 1000;
  LayerTimes large = small;
  for (double& time : large.short_context_seconds.seconds) time *= 2;
  for (double& time : large.long_context_seconds.seconds) time *= 2;
  DeviceProfile profile;
  profile.cpu_layers = {small, large};
  profile.cpu_budgeted_layers = {small, large};
  profile.cpu_output_seconds = small.short_context_seconds;
  return profile;
}

const std::vector<LayerClass> kClasses{{0, 1, 3}, {2}};

Duration seconds_of(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

// So many times the layers 1 to 3, for this long.
void add(ObservedGeneration& observed, int times, double seconds, std::uint32_t n_tokens = 1,
         bool in_budget = false) {
  for (int i = 0; i < times; ++i) {
    observed.add({{1, 4}, n_tokens, 0, in_budget, seconds_of(seconds)});
  }
}

TEST(ObservedGeneration, BelievesTheProfileWhereItIsAboutRight) {
  ObservedGeneration observed(some_profile(), kClasses);
  add(observed, 100, 1.05 * 4e-3);
  EXPECT_FALSE(observed.corrected());
}

TEST(ObservedGeneration, GoesHalfWayToWhatItHasSeen) {
  ObservedGeneration observed(some_profile(), kClasses);
  add(observed, 100, 4 * 4e-3);
  const auto corrected = observed.corrected();
  ASSERT_TRUE(corrected);
  const auto& times = corrected->cpu_layers[0];
  EXPECT_NEAR(times.short_context_seconds.seconds[0], 2e-3, 1e-8);
  EXPECT_NEAR(times.long_context_seconds.seconds[0], 4e-3, 1e-8);
  EXPECT_NEAR(corrected->cpu_layers[1].short_context_seconds.seconds[2], 8e-3, 1e-8);
  EXPECT_NEAR(corrected->cpu_output_seconds.seconds[0], 2e-3, 1e-8);
  // Of prompts and of the other kernels nothing was seen.
  EXPECT_EQ(times.short_context_seconds.seconds[5], 64e-3);
  EXPECT_EQ(corrected->cpu_budgeted_layers[0].short_context_seconds.seconds[0], 1e-3);
}

TEST(ObservedGeneration, CountsTheContext) {
  ObservedGeneration observed(some_profile(), kClasses);
  for (int i = 0; i < 100; ++i) observed.add({{0, 1}, 1, 1000, false, seconds_of(2e-3)});
  EXPECT_FALSE(observed.corrected());
}

TEST(ObservedGeneration, TellsPromptsFromDecodingAndKernelsFromKernels) {
  ObservedGeneration observed(some_profile(), kClasses);
  add(observed, 10, 4 * 64e-3 / 4, 128, true);
  const auto corrected = observed.corrected();
  ASSERT_TRUE(corrected);
  const auto& times = corrected->cpu_budgeted_layers[0].short_context_seconds.seconds;
  EXPECT_NEAR(times[5], 32e-3, 1e-8);
  EXPECT_NEAR(times[4], 8e-3, 1e-8);
  EXPECT_EQ(times[0], 1e-3);
  EXPECT_EQ(corrected->cpu_layers[0].short_context_seconds.seconds[5], 64e-3);
}

TEST(ObservedGeneration, IsNotLedAstrayByAFewStepsOrByOutliers) {
  ObservedGeneration few(some_profile(), kClasses);
  add(few, 10, 4 * 4e-3);
  EXPECT_FALSE(few.corrected());
  ObservedGeneration outliers(some_profile(), kClasses);
  add(outliers, 60, 4e-3);
  add(outliers, 40, 100 * 4e-3);
  EXPECT_FALSE(outliers.corrected());
}

TEST(ObservedGeneration, KeepsTimesRising) {
  ObservedGeneration observed(some_profile(), kClasses);
  add(observed, 100, 8 * 4e-3, 4);
  const auto corrected = observed.corrected();
  ASSERT_TRUE(corrected);
  const auto& times = corrected->cpu_layers[0].short_context_seconds.seconds;
  for (std::size_t i = 1; i < times.size(); ++i) EXPECT_GE(times[i], times[i - 1]);
}

TEST(ObservedGeneration, IgnoresLayersThatNoProfileKnows) {
  ObservedGeneration observed(some_profile(), kClasses);
  for (int i = 0; i < 100; ++i) observed.add({{3, 9}, 1, 0, false, seconds_of(1)});
  EXPECT_FALSE(observed.corrected());
}

}  // namespace
}  // namespace prima::profile

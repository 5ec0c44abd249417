#include "profile/device_profile.h"

#include <gtest/gtest.h>

namespace prima::profile {
namespace {

constexpr TokenTimes kTimes{{1.0, 1.0, 2.0, 4.0, 10.0, 34.0}};

TEST(SecondsForTokens, IsWhatWasMeasuredAtTheTimedCounts) {
  for (std::size_t i = 0; i < kTimedTokens.size(); ++i) {
    EXPECT_DOUBLE_EQ(seconds_for_tokens(kTimes, kTimedTokens[i]), kTimes.seconds[i]);
  }
}

TEST(SecondsForTokens, IsLinearBetweenAndBeyond) {
  EXPECT_DOUBLE_EQ(seconds_for_tokens(kTimes, 3), 1.5);
  EXPECT_DOUBLE_EQ(seconds_for_tokens(kTimes, 80), 22.0);
  EXPECT_DOUBLE_EQ(seconds_for_tokens(kTimes, 512), 34.0 + 384 * 24.0 / 96);
}

TEST(LayerSeconds, GrowsWithTheContextButNotBelowTheShortOne) {
  LayerTimes times;
  times.short_context_seconds = kTimes;
  times.long_context_seconds = {{2.0, 2.0, 3.0, 5.0, 11.0, 40.0}};
  times.short_context_tokens = 100;
  times.long_context_tokens = 1100;
  EXPECT_DOUBLE_EQ(layer_seconds(times, 1, 100), 1.0);
  EXPECT_DOUBLE_EQ(layer_seconds(times, 1, 600), 1.5);
  EXPECT_DOUBLE_EQ(layer_seconds(times, 128, 2100), 46.0);
  EXPECT_DOUBLE_EQ(layer_seconds(times, 1, 0), 1.0);
}

TEST(LayerSeconds, IgnoresTheContextWhereOnlyOneWasMeasured) {
  LayerTimes times;
  times.short_context_seconds = kTimes;
  EXPECT_DOUBLE_EQ(layer_seconds(times, 2, 5000), 1.0);
}

}  // namespace
}  // namespace prima::profile

#include "ring/waterfall.h"

#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace prima::ring {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;
using testing::Not;

StepTimings some_timings() {
  StepTimings timings;
  timings.total = milliseconds(60);
  timings.hops = {{.device = 0, .layers = {0, 2}, .computing = milliseconds(10)},
                  {.device = 1,
                   .layers = {2, 4},
                   .waiting = milliseconds(5),
                   .reading = milliseconds(15),
                   .computing = milliseconds(20),
                   .sending = milliseconds(4)}};
  timings.output = milliseconds(2);
  return timings;
}

const std::vector<std::string> kNames{"head", "laptop"};

TEST(Waterfall, ShowsWhatEachDeviceDidAndWhen) {
  const std::string text = waterfall(7, 1, some_timings(), kNames);
  EXPECT_THAT(text, HasSubstr("step 7: 1 token, 60.0 ms"));
  EXPECT_THAT(text, HasSubstr("laptop  waiting     5.0  reading    15.0  computing    20.0  "
                              "sending     4.0  |            .....rrrrrrrrrrrrrrr"
                              "####################>>>>    |"));
  EXPECT_THAT(text, HasSubstr("|##########                                                oo|"));
  EXPECT_THAT(text, HasSubstr("output layer 2.0  links 4.0"));
}

TEST(Waterfall, DrawsNoPictureOfPartsThatOverlap) {
  StepTimings timings = some_timings();
  timings.n_parts = 2;
  timings.hops.push_back(timings.hops[0]);
  timings.hops.push_back(timings.hops[1]);
  const std::string text = waterfall(7, 64, timings, kNames);
  EXPECT_THAT(text, HasSubstr("step 7: 64 tokens, 60.0 ms in 2 parts"));
  EXPECT_THAT(text, HasSubstr("computing    40.0"));
  EXPECT_THAT(text, Not(HasSubstr("|")));
  EXPECT_THAT(text, Not(HasSubstr("links")));
}

TEST(Waterfall, StandsTimesThatDoNotAddUp) {
  StepTimings timings = some_timings();
  timings.total = milliseconds(1);
  EXPECT_THAT(waterfall(7, 1, timings, kNames), HasSubstr("links 0.0"));
  EXPECT_THAT(waterfall(7, 1, {}, kNames), HasSubstr("step 7"));
}

}  // namespace
}  // namespace prima::ring

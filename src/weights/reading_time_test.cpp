#include "weights/reading_time.h"

#include <gtest/gtest.h>

namespace prima::weights {
namespace {

Instant at(int milliseconds) { return Instant(std::chrono::milliseconds(milliseconds)); }
Duration ms(int milliseconds) { return std::chrono::milliseconds(milliseconds); }

TEST(ReadingTime, CountsReadsThatOverlapOnce) {
  ReadingTime reading(3);
  reading.began(2, at(10));
  reading.began(1, at(20));
  reading.ended(100, at(40));
  reading.ended(200, at(50));
  reading.ended(300, at(90));
  reading.began(1, at(200));
  reading.ended(400, at(205));
  const auto totals = reading.totals(at(1000));
  EXPECT_EQ(totals.bytes, 1000u);
  EXPECT_EQ(totals.busy, ms(80 + 5));
  EXPECT_EQ(totals.queue_full, ms(20));
}

TEST(ReadingTime, CountsTheTimeOfReadsInFlightAndBytesWhenTheyCome) {
  ReadingTime reading(1);
  EXPECT_EQ(reading.totals(at(5)).busy, ms(0));
  reading.began(1, at(10));
  EXPECT_EQ(reading.totals(at(30)).busy, ms(20));
  EXPECT_EQ(reading.totals(at(30)).queue_full, ms(20));
  EXPECT_EQ(reading.totals(at(30)).bytes, 0u);
  EXPECT_EQ(reading.totals(at(40)).busy, ms(30));
  reading.ended(100, at(50));
  EXPECT_EQ(reading.totals(at(60)).busy, ms(40));
  EXPECT_EQ(reading.totals(at(60)).bytes, 100u);
}

// The time of a read that fails is time, its bytes have not come.
TEST(ReadingTime, CountsNoBytesOfReadsThatFailed) {
  ReadingTime reading(1);
  reading.began(1, at(0));
  reading.ended(0, at(10));
  EXPECT_EQ(reading.totals(at(10)).bytes, 0u);
  EXPECT_EQ(reading.totals(at(10)).busy, ms(10));
}

}  // namespace
}  // namespace prima::weights

#include "base/units.h"

#include <gtest/gtest.h>

namespace prima {
namespace {

TEST(ParseBytes, ReadsWhatPeopleWrite) {
  EXPECT_EQ(*parse_bytes("512"), 512u);
  EXPECT_EQ(*parse_bytes("64K"), 64 * kKiB);
  EXPECT_EQ(*parse_bytes("1.5g"), 3 * kGiB / 2);
  EXPECT_EQ(*parse_bytes("2 GiB"), 2 * kGiB);
  EXPECT_EQ(*parse_bytes("300MB"), 300'000'000u);
  EXPECT_EQ(*parse_bytes("0"), 0u);
}

TEST(ParseBytes, RefusesTheRestAndSaysWhatToWrite) {
  for (const char* text : {"", "G", "-1G", "1.5X", "1G2", "nan", "inf", "9e30"}) {
    const auto bytes = parse_bytes(text);
    ASSERT_FALSE(bytes) << text;
    EXPECT_EQ(bytes.error().code, ErrorCode::invalid_argument);
    EXPECT_NE(bytes.error().message().find("512M"), std::string::npos);
  }
}

TEST(FormatBytes, PicksTheUnit) {
  EXPECT_EQ(format_bytes(17), "17 B");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(3 * kGiB / 2), "1.50 GiB");
  EXPECT_EQ(format_bytes_per_second(3e8), "300 MB/s");
  EXPECT_EQ(format_bytes_per_second(1.9e9), "1.90 GB/s");
}

TEST(CheckedArithmetic, NoticesOverflow) {
  EXPECT_EQ(*checked_add(1, 2), 3u);
  EXPECT_FALSE(checked_add(~Bytes{0}, 1));
  EXPECT_EQ(*checked_multiply(kGiB, 4), 4 * kGiB);
  EXPECT_FALSE(checked_multiply(kGiB * kGiB / 2, 32));
}

TEST(Align, RoundsToPowersOfTwo) {
  EXPECT_EQ(align_up(4097, 4096), 8192u);
  EXPECT_EQ(align_up(4096, 4096), 4096u);
  EXPECT_EQ(align_down(4097, 4096), 4096u);
}

}  // namespace
}  // namespace prima

#include "text/trial.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

#include <gtest/gtest.h>
#include <unistd.h>

namespace prima::text {
namespace {

TEST(Trial, PassesOnWhatTheWorkSays) {
  EXPECT_TRUE(try_in_child("it", [] { return Status(); }));
  const Status status = try_in_child("it", [] {
    return Status(fail(ErrorCode::invalid_argument, "a comma is missing", "Add one"));
  });
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().what, "a comma is missing");
  EXPECT_EQ(status.error().remedy, "Add one");
}

TEST(Trial, KeepsWhatWasSaid) {
  std::string said;
  EXPECT_TRUE(try_in_child(
      "it",
      [] {
        std::fputs("WARNING: hm", stderr);
        return Status();
      },
      {}, &said));
  EXPECT_EQ(said, "WARNING: hm");
}

TEST(Trial, LeavesThisProcessAsItWas) {
  int value = 1;
  EXPECT_TRUE(try_in_child("it", [&] {
    value = 2;
    return Status();
  }));
  EXPECT_EQ(value, 1);
}

TEST(Trial, NamesWhatCrashesOrDoesNotEnd) {
  const Status crash = try_in_child("the grammar", []() -> Status { std::abort(); });
  ASSERT_FALSE(crash);
  EXPECT_NE(crash.error().what.find("the grammar crashes"), std::string::npos);

  const auto for_ever = []() -> Status {
    for (;;) ::pause();
  };
  const Status endless =
      try_in_child("the grammar", for_ever, {.time = std::chrono::milliseconds(200)});
  ASSERT_FALSE(endless);
  EXPECT_EQ(endless.error().what, "the grammar takes too long to read");
}

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST(Trial, BoundsMemory) {
  const Status greedy = try_in_child("the template",
                                     [] {
                                       std::vector<std::vector<char>> blocks;
                                       for (int i = 0; i < 64; ++i)
                                         blocks.emplace_back(std::size_t{8} << 20, 'x');
                                       return Status();
                                     },
                                     {.memory = 64 * kMiB});
  ASSERT_FALSE(greedy);
  EXPECT_NE(greedy.error().what.find("memory"), std::string::npos) << greedy.error().what;
}
#endif

}  // namespace
}  // namespace prima::text

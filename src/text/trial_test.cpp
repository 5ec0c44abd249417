#include "text/trial.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

#include <gtest/gtest.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#endif

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
// Emulators of processors take a limit on a program's memory without holding it to that.
bool system_bounds_memory() {
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit most{64 * kMiB, 64 * kMiB};
    const bool limited = ::setrlimit(RLIMIT_DATA, &most) == 0;
    void* const more =
        ::mmap(nullptr, 256 * kMiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ::_exit(limited && more == MAP_FAILED ? 0 : 1);
  }
  int status = 1;
  return child > 0 && ::waitpid(child, &status, 0) == child && status == 0;
}

TEST(Trial, BoundsMemory) {
  if (!system_bounds_memory()) GTEST_SKIP() << "this system does not impose RLIMIT_DATA";
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

#include "weights/budget.h"

#include <cstdlib>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace prima::weights {
namespace {

namespace fs = std::filesystem;

// A root with the files of /proc and /sys that a test writes.
class FakeSystem : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "prima-budget-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
    write("proc/meminfo",
          "MemTotal:       16777216 kB\nMemFree:  1048576 kB\nMemAvailable:    8388608 kB\n");
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const fs::path& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  AvailableMemory measure() const {
    auto memory = available_memory(root_);
    EXPECT_TRUE(memory) << memory.error().message();
    return memory.value_or(AvailableMemory{});
  }

  fs::path root_;
};

TEST_F(FakeSystem, WithoutCgroupsItIsWhatTheSystemSays) {
  const AvailableMemory memory = measure();
  EXPECT_EQ(memory.total, 16 * kGiB);
  EXPECT_EQ(memory.available, 8 * kGiB);
  EXPECT_EQ(memory.limit, "memory");
}

TEST_F(FakeSystem, TheTightestOfNestedV2GroupsCounts) {
  write("proc/self/cgroup", "0::/user/prima\n");
  write("proc/self/mountinfo",
        "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
  write("sys/fs/cgroup/user/prima/memory.max", "max\n");
  write("sys/fs/cgroup/user/prima/memory.current", "1\n");
  write("sys/fs/cgroup/user/memory.max", "4294967296\n");
  write("sys/fs/cgroup/user/memory.high", "3221225472\n");
  write("sys/fs/cgroup/user/memory.current", "2147483648\n");
  write("sys/fs/cgroup/user/memory.stat",
        "anon 1\ninactive_file 536870912\nactive_file 536870912\n");
  const AvailableMemory memory = measure();
  EXPECT_EQ(memory.total, 3 * kGiB);
  EXPECT_EQ(memory.available, 2 * kGiB);  // 3 GiB, less 2 used, of which 1 can be taken back
  EXPECT_THAT(memory.limit, testing::EndsWith("sys/fs/cgroup/user"));
}

TEST_F(FakeSystem, V1GroupsCountAndHugeLimitsMeanNone) {
  write("proc/self/cgroup", "5:cpu,cpuacct:/other\n4:memory:/a/b\n0::/\n");
  write("proc/self/mountinfo",
        "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "31 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1073741824\n");
  write("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "536870912\n");
  write("sys/fs/cgroup/memory/a/memory.stat",
        "total_inactive_file 0\ntotal_active_file 268435456\n");
  write("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "2147483648\n");
  write("sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "0\n");
  const AvailableMemory memory = measure();
  EXPECT_EQ(memory.total, kGiB);
  EXPECT_EQ(memory.available, 768 * kMiB);
}

TEST_F(FakeSystem, AContainersMountShowsItsPartOfTheHierarchy) {
  write("proc/self/cgroup", "4:memory:/docker/abc\n");
  write("proc/self/mountinfo",
        "30 25 0:26 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n");
  EXPECT_EQ(measure().available, kGiB);
}

TEST_F(FakeSystem, SaysWhatTheProgramTakes) {
  write("proc/self/status", "Name:\tprima\nVmRSS:\t   20480 kB\nRssAnon: 1 kB\n");
  EXPECT_EQ(program_memory(root_), 20 * kMiB);
}

TEST_F(FakeSystem, NoMeminfoIsAnError) {
  fs::remove(root_ / "proc/meminfo");
  EXPECT_FALSE(available_memory(root_));
}

TEST(Budget, LeavesAReserveByDefault) {
  const auto budget = make_budget({}, {16 * kGiB, 8 * kGiB, "memory"}, 20 * kMiB);
  EXPECT_EQ(budget.total, 8 * kGiB + 20 * kMiB - default_reserve(16 * kGiB));
  EXPECT_LT(budget.for_layers(), budget.total - 20 * kMiB);
  EXPECT_FALSE(budget.was_asked);
}

TEST(Budget, TakesWhatIsAsked) {
  const auto budget = make_budget(kGiB, {16 * kGiB, 8 * kGiB, "memory"}, 20 * kMiB);
  EXPECT_EQ(budget.total, kGiB);
  EXPECT_TRUE(budget.was_asked);
}

TEST(Budget, LeavesNothingForLayersWhereNotEvenTheProgramFits) {
  EXPECT_EQ(make_budget(10 * kMiB, {16 * kGiB, 8 * kGiB, "memory"}, 20 * kMiB).for_layers(), 0u);
  EXPECT_EQ(make_budget({}, {kGiB, 10 * kMiB, "memory"}, 20 * kMiB).for_layers(), 0u);
}

TEST(Budget, OfThisMachineIsSensible) {
  auto memory = available_memory();
  ASSERT_TRUE(memory) << memory.error().message();
  EXPECT_GT(memory->available, 0u);
  EXPECT_LE(memory->available, memory->total);
  EXPECT_GT(program_memory(), kMiB);
}

}  // namespace
}  // namespace prima::weights

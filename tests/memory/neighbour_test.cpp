// Another program takes most of the memory while prima writes an answer: it gets it, nobody is
// killed, the answer stays the same, and prima is as fast as before once the memory is free again.
//
// Needs root and Linux's control groups, version 1 or 2; skipped elsewhere.
#include <chrono>
#include <csignal>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "run/program.h"
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/units.h"

namespace prima::test {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr Bytes kGroupMemory = 420 * kMiB;
constexpr Bytes kNeighbourMemory = 270 * kMiB;

// A group with limited memory. What this process starts while it is inside belongs to it.
class MemoryGroup {
 public:
  static std::optional<MemoryGroup> create() {
    MemoryGroup group;
    const fs::path v1 = "/sys/fs/cgroup/memory";
    group.is_v1_ = fs::exists(v1 / "memory.limit_in_bytes");
    group.root_ = group.is_v1_ ? v1 : fs::path("/sys/fs/cgroup");
    group.folder_ = group.root_ / ("prima-test-" + std::to_string(::getpid()));
    std::error_code error;
    if (!fs::create_directory(group.folder_, error)) return std::nullopt;
    const char* limit = group.is_v1_ ? "memory.limit_in_bytes" : "memory.max";
    if (!write(group.folder_ / limit, std::to_string(kGroupMemory))) {
      fs::remove(group.folder_, error);
      return std::nullopt;
    }
    return group;
  }

  bool enter() const { return write(folder_ / "cgroup.procs", std::to_string(::getpid())); }
  void leave() const { write(root_ / "cgroup.procs", std::to_string(::getpid())); }

  void remove() const {
    std::error_code error;
    for (int i = 0; i < 100 && !fs::remove(folder_, error); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }

 private:
  static bool write(const fs::path& path, const std::string& text) {
    std::ofstream file(path);
    file << text;
    file.flush();
    return file.good();
  }

  bool is_v1_ = false;
  fs::path root_;
  fs::path folder_;
};

// A process that fills memory with its own bytes, keeps it, and ends.
pid_t start_neighbour(std::chrono::seconds keeps) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  auto* memory = static_cast<char*>(::mmap(nullptr, kNeighbourMemory, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) ::_exit(1);
  for (Bytes i = 0; i < kNeighbourMemory; i += 4096) memory[i] = 1;
  std::this_thread::sleep_for(keeps);
  ::_exit(0);
}

// An answer while it is written, and when how much of it was there.
class Answer {
 public:
  explicit Answer(const Arguments& arguments) : program_(arguments) { program_.end_input(); }

  // False where the program ended before, or took too long.
  bool wait_for_bytes(std::size_t wanted) {
    return program_.wait_for([&] {
      reached_.push_back({Clock::now(), program_.out().size()});
      return program_.out().size() >= wanted;
    });
  }

  int wait_for_end() {
    while (wait_for_bytes(program_.out().size() + 1)) {
    }
    return program_.wait();
  }

  // From the first to the second part of `whole` bytes.
  Clock::duration between(double first, double second, std::size_t whole) const {
    return when(second * static_cast<double>(whole)) - when(first * static_cast<double>(whole));
  }

  const std::string& text() const { return program_.out(); }
  const std::string& log() const { return program_.err(); }

 private:
  struct Reached {
    Clock::time_point when;
    std::size_t bytes;
  };

  Clock::time_point when(double bytes) const {
    for (const Reached& reached : reached_) {
      if (static_cast<double>(reached.bytes) >= bytes) return reached.when;
    }
    return reached_.back().when;
  }

  Program program_;
  std::vector<Reached> reached_;
};

class NeighbourTest : public testing::Test {
 protected:
  void SetUp() override {
    group_ = MemoryGroup::create();
    if (!group_) GTEST_SKIP() << "no control groups here, or not root";
    const Outcome made =
        run({"model",     "synth",      "--layers", "16",   "--embd", "1024",    "--heads",
             "8",         "--kv-heads", "2",        "--ff", "3072",   "--vocab", "512",
             "--context", "4096",       "--type",   "Q8_0", "-o",     model_});
    ASSERT_EQ(made.status, 0) << made.err;
    // Its pages are in memory on this process's account; the group shall read them itself.
    const int file = ::open(model_.c_str(), O_RDONLY);
    ASSERT_GE(file, 0);
    ASSERT_EQ(::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED), 0);
    ::close(file);
  }
  void TearDown() override {
    if (!group_) return;
    group_->leave();
    group_->remove();
  }

  Arguments generating(int n, const std::string& report) const {
    return {"run",    "-m", model_, "-p",   "hello",        "-n",         std::to_string(n),
            "--temp", "0",  "-c",   "4096", "--ignore-eos", "--no-store", "--json",
            report};
  }

  TemporaryFolder folder_;
  std::string model_ = folder_.file("model.gguf");
  std::optional<MemoryGroup> group_;
};

TEST_F(NeighbourTest, GetsTheMemoryItNeedsAndGivesItBack) {
  constexpr int kTokens = 1200;
  const std::string report_alone = folder_.file("alone.json");
  ASSERT_TRUE(group_->enter());
  Answer alone(generating(kTokens, report_alone));
  ASSERT_EQ(alone.wait_for_end(), 0) << alone.log();
  const std::size_t whole = alone.text().size();

  const std::string report_beside = folder_.file("beside.json");
  Answer beside(generating(kTokens, report_beside));
  ASSERT_TRUE(beside.wait_for_bytes(whole / 8)) << beside.log();
  const pid_t neighbour = start_neighbour(std::chrono::seconds(4));
  group_->leave();
  int status = 0;
  ASSERT_EQ(::waitpid(neighbour, &status, 0), neighbour);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "the neighbour was killed";
  EXPECT_EQ(beside.wait_for_end(), 0) << beside.log();

  const json expected = json::parse(read_file(report_alone));
  const json actual = json::parse(read_file(report_beside));
  EXPECT_EQ(actual["tokens"], expected["tokens"]);
  EXPECT_GT(actual["memory"]["budget"], 0);
  EXPECT_LE(actual["memory"]["budget"], kGroupMemory);
  // The same tokens of it, because later ones take longer.
  EXPECT_LT(beside.between(0.85, 1, whole), 2 * alone.between(0.85, 1, whole))
      << "it is not as fast as it was";
}

}  // namespace
}  // namespace prima::test

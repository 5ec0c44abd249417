// The streamer's thread with a reader that delivers known bytes from memory and injects faults.
#include "weights/streamer.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <deque>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace prima::weights {
namespace {

constexpr Bytes kBlock = 4096;

std::byte content(Bytes offset) {
  return static_cast<std::byte>((offset / 64) * 2654435761u >> 13);
}

// Completes requests in wait(), one each, oldest first; `fault` may say otherwise.
class ScriptedReader final : public Reader {
 public:
  struct Script {
    std::function<Status(const ReadRequest&)> fault = [](const ReadRequest&) { return Status(); };
    std::atomic<bool> hangs = false;
    std::atomic<bool> changed = false;
    std::atomic<int> submitted = 0;
  };

  explicit ScriptedReader(std::shared_ptr<Script> script) : script_(std::move(script)) {}

  std::string description() const override { return "scripted"; }
  bool is_direct() const override { return true; }
  Bytes alignment() const override { return kBlock; }
  std::size_t queue_depth() const override { return 4; }

  void submit(const ReadRequest& request) override {
    ++script_->submitted;
    requests_.push_back(request);
  }

  void wait(Duration timeout, std::vector<ReadCompletion>& completions) override {
    if (requests_.empty() || script_->hangs) return std::this_thread::sleep_for(timeout / 10);
    const ReadRequest request = requests_.front();
    requests_.pop_front();
    Status status = script_->fault(request);
    if (status && request.buffer != nullptr) {
      for (Bytes i = 0; i < request.size; ++i) request.buffer[i] = content(request.offset + i);
    }
    completions.push_back({request.tag, std::move(status), request.size});
  }

  Status check_unchanged() const override {
    if (script_->changed) return fail(ErrorCode::unavailable, "changed");
    return {};
  }

 private:
  std::shared_ptr<Script> script_;
  std::deque<ReadRequest> requests_;
};

class StreamerTest : public testing::Test {
 protected:
  static constexpr StageIndex kStages = 7;
  static constexpr Bytes kStageBytes = 16 * kBlock;

  Streamer make(StreamerOptions options = {}) {
    std::vector<StageLayout> cycle;
    for (StageIndex i = 0; i < kStages; ++i) {
      // Two pieces far from each other.
      cycle.push_back(
          {{{0, i * kStageBytes, kStageBytes / 2}, {0, (100 + i) * kStageBytes, kStageBytes / 2}}});
    }
    options.chunk = 4 * kBlock;
    return Streamer(std::make_unique<ScriptedReader>(script_),
                    std::move(*SlotMemory::allocate(2 * kStageBytes)), std::move(cycle), {},
                    options);
  }

  static void expect_content(StageIndex stage, const std::byte* data) {
    for (Bytes i = 0; i < kStageBytes / 2; i += 512) {
      ASSERT_EQ(data[i], content(stage * kStageBytes + i)) << stage << " " << i;
      ASSERT_EQ(data[kStageBytes / 2 + i], content((100 + stage) * kStageBytes + i));
    }
  }

  std::shared_ptr<ScriptedReader::Script> script_ = std::make_shared<ScriptedReader::Script>();
};

TEST_F(StreamerTest, DeliversEveryStageOfManyCycles) {
  auto streamer = make();
  for (int token = 0; token < 20; ++token) {
    for (StageIndex stage = 0; stage < kStages; ++stage) {
      auto data = streamer.acquire(stage);
      ASSERT_TRUE(data) << data.error().message();
      expect_content(stage, *data);
      streamer.release(stage);
    }
  }
  EXPECT_EQ(streamer.statistics().stages_acquired, 20u * kStages);
}

// What was read and not given back yet never exceeds the capacity, also where the order changes.
TEST_F(StreamerTest, InPlaceGivesBackBeforeItReadsOn) {
  constexpr Bytes kCapacity = 5 * kStageBytes / 2;
  // Of the streamer's thread, until it has ended.
  std::array<Bytes, kStages> held{};
  Bytes most_held = 0;
  int drops = 0;
  script_->fault = [&](const ReadRequest& request) -> Status {
    EXPECT_EQ(request.buffer, nullptr);
    held[request.offset / kStageBytes] += request.size;
    most_held = std::max(most_held, std::accumulate(held.begin(), held.end(), Bytes{0}));
    return {};
  };
  {
    std::vector<StageLayout> cycle;
    for (StageIndex i = 0; i < kStages; ++i) cycle.push_back({{{0, i * kStageBytes, kStageBytes}}});
    const auto drop = [&](StageIndex stage) {
      held[stage] = 0;
      ++drops;
    };
    StreamerOptions options;
    options.chunk = 4 * kBlock;
    Streamer streamer(std::make_unique<ScriptedReader>(script_),
                      InPlaceSlots{.capacity = kCapacity, .drop = drop}, std::move(cycle), {},
                      options);
    EXPECT_EQ(streamer.memory_bytes(), kCapacity);
    for (const StageIndex stage :
         {0u, 1u, 2u, 3u, 4u, 5u, 6u, 0u, 1u, 4u, 5u, 0u, 0u, 6u, 3u, 2u, 1u, 2u, 3u}) {
      const auto acquired = streamer.acquire(stage);
      ASSERT_TRUE(acquired) << acquired.error().message();
      EXPECT_EQ(*acquired, nullptr);
      streamer.release(stage);
    }
  }
  EXPECT_GE(drops, 15);
  EXPECT_GT(most_held, kStageBytes);
  EXPECT_LE(most_held, kCapacity);
}

TEST_F(StreamerTest, FollowsAChangedOrder) {
  auto streamer = make();
  for (const StageIndex stage : {0u, 1u, 4u, 5u, 0u, 0u, 6u, 3u, 2u, 1u}) {
    auto data = streamer.acquire(stage);
    ASSERT_TRUE(data) << data.error().message();
    expect_content(stage, *data);
    streamer.release(stage);
  }
}

TEST_F(StreamerTest, OneReadErrorIsRepaired) {
  std::atomic<int> failures = 1;
  script_->fault = [&](const ReadRequest& request) -> Status {
    if (request.offset == 3 * kStageBytes && failures-- > 0) return fail(ErrorCode::io, "EIO");
    return {};
  };
  auto streamer = make();
  for (StageIndex stage = 0; stage < kStages; ++stage) {
    auto data = streamer.acquire(stage);
    ASSERT_TRUE(data) << data.error().message();
    expect_content(stage, *data);
    streamer.release(stage);
  }
  EXPECT_EQ(streamer.statistics().failed_reads, 1u);
}

TEST_F(StreamerTest, LastingReadErrorsAreReportedAndTheNextAcquireStartsAfresh) {
  std::atomic<bool> broken = true;
  script_->fault = [&](const ReadRequest&) -> Status {
    if (broken) return fail(ErrorCode::io, "EIO");
    return {};
  };
  auto streamer = make();
  auto data = streamer.acquire(0);
  ASSERT_FALSE(data);
  EXPECT_EQ(data.error().code, ErrorCode::io);
  broken = false;
  data = streamer.acquire(0);
  ASSERT_TRUE(data) << data.error().message();
  expect_content(0, *data);
  streamer.release(0);
}

TEST_F(StreamerTest, AFileThatChangedIsAnErrorAtOnce) {
  auto streamer = make();
  script_->changed = true;
  auto data = streamer.acquire(0);
  ASSERT_FALSE(data);
  EXPECT_EQ(data.error().code, ErrorCode::unavailable);
}

// As of a disk that spins up, in real time: what waits for it and for how long is what is tested.
TEST_F(StreamerTest, AReadOfFiveSecondsIsWaitedFor) {
  script_->fault = [](const ReadRequest& request) {
    if (request.offset == 3 * kStageBytes) std::this_thread::sleep_for(std::chrono::seconds(5));
    return Status();
  };
  Streamer streamer = make();
  for (StageIndex stage = 0; stage < kStages; ++stage) {
    const auto data = streamer.acquire(stage);
    ASSERT_TRUE(data) << data.error().message();
    expect_content(stage, *data);
    streamer.release(stage);
  }
  const StreamerStatistics statistics = streamer.statistics();
  EXPECT_GE(statistics.waited, std::chrono::seconds(4));
  EXPECT_GE(statistics.reading, std::chrono::seconds(4));
  EXPECT_GE(statistics.reading, statistics.queue_full);
  EXPECT_GE(statistics.bytes_read, kStages * kStageBytes);
  EXPECT_LE(statistics.bytes_read, script_->submitted * 4 * kBlock);
  EXPECT_EQ(statistics.failed_reads, 0u);
}

// The only read that ever completes does so while other work is done: nobody may wait for another.
TEST_F(StreamerTest, WhatCompletesDuringIdleWorkIsNotMissed) {
  class Once final : public IdleWork {
   public:
    bool work(Place place, Duration) override {
      EXPECT_EQ(place, 0u);
      ++n_asked;
      if (n_asked > 1) return false;
      let_read = true;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      return worked;
    }
    void ended(Place place, Duration waited) override {
      EXPECT_EQ(place, 0u);
      EXPECT_GE(waited, std::chrono::milliseconds(100));
      ++n_ended;
    }
    std::atomic<bool> let_read = false;
    bool worked = true;
    int n_asked = 0;
    int n_ended = 0;
  };
  for (const bool worked : {true, false}) {
    Once idle_work;
    idle_work.worked = worked;
    script_->fault = [&](const ReadRequest&) -> Status {
      for (int i = 0; i < 5000 && !idle_work.let_read; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      return {};
    };
    auto streamer = make();
    streamer.set_idle_work(&idle_work);
    const auto data = streamer.acquire(0);
    ASSERT_TRUE(data) << data.error().message();
    expect_content(0, *data);
    EXPECT_GE(idle_work.n_asked, 1);
    EXPECT_EQ(idle_work.n_ended, 1);
  }
}

TEST_F(StreamerTest, ASilentDiskIsAnErrorAfterTheStallLimit) {
  script_->hangs = true;
  auto streamer = make({.stall_limit = std::chrono::milliseconds(50)});
  auto data = streamer.acquire(0);
  ASSERT_FALSE(data);
  EXPECT_EQ(data.error().code, ErrorCode::deadline_exceeded);
  script_->hangs = false;
  data = streamer.acquire(0);
  ASSERT_TRUE(data) << data.error().message();
  expect_content(0, *data);
  streamer.release(0);
}

TEST_F(StreamerTest, StagesInUseThatLeaveNoRoomAreAnErrorNotAHang) {
  auto streamer = make();
  ASSERT_TRUE(streamer.acquire(0));
  ASSERT_TRUE(streamer.acquire(1));
  auto data = streamer.acquire(2);
  ASSERT_FALSE(data);
  EXPECT_EQ(data.error().code, ErrorCode::resource_exhausted);
  streamer.release(0);
  EXPECT_TRUE(streamer.acquire(2));
}

TEST(SlotMemory, AppearsTwiceWhereItSaysSo) {
  auto memory = SlotMemory::allocate(100'000);
  ASSERT_TRUE(memory) << memory.error().message();
  EXPECT_EQ(memory->capacity(), 131072u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory->data()) % SlotMemory::kAlignment, 0u);
  memory->data()[5] = std::byte{42};
  if (!memory->mirrored()) GTEST_SKIP() << "memory is not mapped twice here";
  EXPECT_EQ(memory->data()[memory->capacity() + 5], std::byte{42});
}

}  // namespace
}  // namespace prima::weights

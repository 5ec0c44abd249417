// The ring's decisions, against a model of the memory: every read that is issued "fills" its bytes
// with what the file has there, so a slot overwritten too early or too late shows as wrong bytes.
#include "weights/slot_ring.h"

#include <map>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace prima::weights {
namespace {

using Readiness = SlotRing::Readiness;
constexpr Bytes kBlock = 4096;

// One file; stage i is one piece of the given number of blocks, with a gap of a block between.
std::vector<StageLayout> layouts(const std::vector<Bytes>& blocks) {
  std::vector<StageLayout> cycle;
  Bytes offset = 0;
  for (const Bytes n : blocks) {
    cycle.push_back({{{0, offset, n * kBlock}}});
    offset += (n + 1) * kBlock;
  }
  return cycle;
}

class Simulation {
 public:
  Simulation(std::vector<StageLayout> cycle, Bytes capacity, bool mirrored, Bytes chunk)
      : cycle_(cycle), ring_(std::move(cycle), {capacity, mirrored, chunk}), mirrored_(mirrored) {}

  SlotRing& ring() { return ring_; }

  bool issue() {
    auto read = ring_.next_read();
    if (!read) return false;
    in_flight_.push_back(*read);
    // From now on the memory may change at any time.
    for (Bytes b = 0; b < read->size; b += kBlock) memory_[at(read->position + b)] = kUnknown;
    return true;
  }

  void complete(std::size_t index, const Status& status = {}) {
    const SlotRing::Read read = in_flight_.at(index);
    in_flight_.erase(in_flight_.begin() + static_cast<std::ptrdiff_t>(index));
    for (Bytes b = 0; b < read.size; b += kBlock) {
      memory_[at(read.position + b)] = read.offset + b;
    }
    ring_.complete(read.tag, status);
  }

  void settle() {
    while (issue() || !in_flight_.empty()) {
      if (!in_flight_.empty()) complete(0);
    }
  }

  // Whether the memory at `position` holds the stage.
  testing::AssertionResult holds(StageIndex stage, Bytes position) const {
    for (const StagePiece& piece : cycle_[stage].pieces) {
      for (Bytes b = 0; b < piece.size; b += kBlock, position += kBlock) {
        const auto found = memory_.find(at(position));
        if (found == memory_.end() || found->second != piece.offset + b) {
          return testing::AssertionFailure()
                 << "stage " << stage << " is not in memory at " << position;
        }
      }
    }
    return testing::AssertionSuccess();
  }

  std::size_t in_flight() const { return in_flight_.size(); }

 private:
  static constexpr Bytes kUnknown = ~Bytes{0};

  Bytes at(Bytes position) const {
    EXPECT_LT(position, (mirrored_ ? 2 : 1) * ring_.capacity());
    return position % ring_.capacity();
  }

  std::vector<StageLayout> cycle_;
  SlotRing ring_;
  bool mirrored_;
  std::map<Bytes, Bytes> memory_;  // block of the slot memory -> offset in the file
  std::vector<SlotRing::Read> in_flight_;
};

TEST(SlotRing, ReadsAheadInOrderOfUseAsFarAsTheRingAllows) {
  Simulation s(layouts({2, 2, 2, 2}), 5 * kBlock, true, kBlock);
  while (s.issue()) {
  }
  EXPECT_EQ(s.in_flight(), 5u);  // stages 0 and 1, and half of 2
  s.settle();
  EXPECT_TRUE(s.ring().is_coming_up(2));
  EXPECT_FALSE(s.ring().is_coming_up(3));
}

TEST(SlotRing, ReadsIntoWhatIsFreeBeforeTheWholeSlotIs) {
  // A ring hardly larger than a stage: while one is in use, the next is already begun.
  Simulation s(layouts({4, 4, 4}), 6 * kBlock, true, kBlock);
  s.settle();
  const auto first = s.ring().acquire(0);
  ASSERT_EQ(first.readiness, Readiness::ready);
  EXPECT_FALSE(s.issue());  // 2 of stage 1's 4 blocks were read already, the others must wait
  EXPECT_EQ(s.ring().acquire(1).readiness, Readiness::blocked);
  s.ring().release(0);
  EXPECT_EQ(s.ring().acquire(1).readiness, Readiness::loading);
  s.settle();
  const auto second = s.ring().acquire(1);
  ASSERT_EQ(second.readiness, Readiness::ready);
  EXPECT_TRUE(s.holds(1, second.position));
}

TEST(SlotRing, WithoutAMirrorSlotsDoNotRunAcrossTheEnd) {
  Simulation s(layouts({3, 3, 3}), 7 * kBlock, false, kBlock);
  for (int token = 0; token < 5; ++token) {
    for (StageIndex stage = 0; stage < 3; ++stage) {
      s.settle();
      const auto acquired = s.ring().acquire(stage);
      ASSERT_EQ(acquired.readiness, Readiness::ready);
      EXPECT_LE(acquired.position + 3 * kBlock, 7 * kBlock);
      EXPECT_TRUE(s.holds(stage, acquired.position));
      s.ring().release(stage);
    }
  }
}

TEST(SlotRing, SkipsResidentStagesUnlessAsked) {
  Simulation s(layouts({1, 1, 1, 1}), 2 * kBlock, true, kBlock);
  s.ring().set_skip([](StageIndex stage) { return stage % 2 == 0; });
  s.settle();
  EXPECT_TRUE(s.ring().is_coming_up(1));
  EXPECT_TRUE(s.ring().is_coming_up(3));
  EXPECT_FALSE(s.ring().is_coming_up(0));
  EXPECT_EQ(s.ring().acquire(2).readiness, Readiness::loading);
  s.settle();
  EXPECT_EQ(s.ring().acquire(2).readiness, Readiness::ready);
}

TEST(SlotRing, AllSkippedReadsNothing) {
  Simulation s(layouts({1, 1}), 2 * kBlock, true, kBlock);
  s.ring().set_skip([](StageIndex) { return true; });
  EXPECT_FALSE(s.issue());
}

TEST(SlotRing, AFailedReadFailsTheStageOnceAndIsTriedAgain) {
  Simulation s(layouts({2, 2}), 4 * kBlock, true, kBlock);
  while (s.issue()) {
  }
  s.complete(1, fail(ErrorCode::io, "disk on fire"));
  s.settle();
  EXPECT_EQ(s.ring().acquire(0).readiness, Readiness::failed);
  EXPECT_EQ(s.ring().error().what, "disk on fire");
  EXPECT_EQ(s.ring().acquire(0).readiness, Readiness::loading);
  s.settle();
  const auto acquired = s.ring().acquire(0);
  ASSERT_EQ(acquired.readiness, Readiness::ready);
  EXPECT_TRUE(s.holds(0, acquired.position));
}

TEST(SlotRing, AJumpWaitsForReadsInFlightAndThenFindsItsWay) {
  Simulation s(layouts({2, 2, 2, 2, 2, 2}), 4 * kBlock, true, kBlock);
  while (s.issue()) {
  }
  ASSERT_EQ(s.in_flight(), 4u);
  EXPECT_EQ(s.ring().acquire(4).readiness, Readiness::loading);
  EXPECT_FALSE(s.issue());  // the ring is still being written to
  s.settle();
  const auto acquired = s.ring().acquire(4);
  ASSERT_EQ(acquired.readiness, Readiness::ready);
  EXPECT_TRUE(s.holds(4, acquired.position));
  EXPECT_TRUE(s.ring().is_coming_up(5));
}

TEST(SlotRing, AStageInUseTwiceIsFreeAfterTheSecondRelease) {
  Simulation s(layouts({2, 2}), 2 * kBlock, true, kBlock);
  s.settle();
  ASSERT_EQ(s.ring().acquire(0).readiness, Readiness::ready);
  ASSERT_EQ(s.ring().acquire(0).readiness, Readiness::ready);
  s.ring().release(0);
  EXPECT_FALSE(s.issue());
  s.ring().release(0);
  EXPECT_TRUE(s.issue());
}

// Random stages, ring sizes, orders of completion, jumps, failures and residency.
TEST(SlotRing, NeverGivesWrongBytesNorStopsForEver) {
  for (std::uint32_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    auto below = [&](std::size_t n) { return static_cast<std::uint32_t>(random() % n); };
    std::vector<Bytes> blocks(1 + below(8));
    Bytes largest = 0;
    for (Bytes& n : blocks) largest = std::max(largest, n = 1 + below(6));
    const bool mirrored = below(2) == 0;
    const Bytes capacity = (largest * (1 + below(2)) + below(7)) * kBlock;
    Simulation s(layouts(blocks), capacity, mirrored, (1 + below(3)) * kBlock);
    std::vector<bool> resident(blocks.size());
    s.ring().set_skip([&](StageIndex stage) { return static_cast<bool>(resident[stage]); });

    StageIndex expected = 0;
    for (int use = 0; use < 200; ++use) {
      if (below(20) == 0) resident[below(blocks.size())] = below(2) == 0;
      if (below(15) == 0) expected = below(blocks.size());
      SlotRing::Acquired acquired;
      for (int tries = 0;; ++tries) {
        ASSERT_LT(tries, 200) << "no progress";
        acquired = s.ring().acquire(expected);
        ASSERT_NE(acquired.readiness, Readiness::blocked);
        if (acquired.readiness == Readiness::ready) break;
        while (s.in_flight() < 4 && s.issue()) {
        }
        if (s.in_flight() > 0) {
          const bool fails = below(60) == 0;
          s.complete(below(s.in_flight()), fails ? Status(fail(ErrorCode::io, "x")) : Status());
        }
      }
      ASSERT_TRUE(s.holds(expected, acquired.position));
      // Read on while it is in use: what is in use must stay.
      for (Bytes i = below(6); i > 0; --i) {
        if (s.in_flight() < 4) s.issue();
        if (s.in_flight() > 0 && below(2) == 0) s.complete(below(s.in_flight()));
      }
      ASSERT_TRUE(s.holds(expected, acquired.position));
      s.ring().release(expected);
      expected = (expected + 1) % static_cast<StageIndex>(blocks.size());
    }
  }
}

TEST(SlotRing, InPlaceNoReadGoesAcrossAMultipleOfTheChunk) {
  SlotRing ring({{{{0, 3 * kBlock, 10 * kBlock}}}},
                {.capacity = 20 * kBlock, .mirrored = true, .chunk = 4 * kBlock, .in_place = true});
  std::vector<std::pair<Bytes, Bytes>> reads;
  while (const auto read = ring.next_read()) {
    if (reads.size() == 4) break;  // the same stage again
    reads.emplace_back(read->offset / kBlock, read->size / kBlock);
  }
  EXPECT_THAT(reads, testing::ElementsAre(testing::Pair(3, 1), testing::Pair(4, 4),
                                          testing::Pair(8, 4), testing::Pair(12, 1)));
}

// What was read in place takes memory until the caller is told that it came free: used, given up or
// failed; and not while another slot holds the same stage.
TEST(SlotRing, InPlaceSaysWhatCameFree) {
  SlotRing ring(layouts({2, 2, 2, 2}),
                {.capacity = 5 * kBlock, .mirrored = true, .chunk = kBlock, .in_place = true});
  const auto settle = [&](StageIndex failing) {
    while (const auto read = ring.next_read()) {
      const bool fails = read->offset / (3 * kBlock) == failing;
      ring.complete(read->tag, fails ? fail(ErrorCode::io, "EIO") : Status());
    }
  };
  settle(99);
  ASSERT_EQ(ring.acquire(0).readiness, Readiness::ready);
  EXPECT_THAT(ring.take_freed(), testing::IsEmpty());
  ring.release(0);
  EXPECT_THAT(ring.take_freed(), testing::ElementsAre(0));
  EXPECT_THAT(ring.take_freed(), testing::IsEmpty());
  settle(99);
  ASSERT_EQ(ring.acquire(3).readiness, Readiness::loading);  // 1 and 2 are given up
  EXPECT_THAT(ring.take_freed(), testing::UnorderedElementsAre(1, 2));
  settle(3);
  ASSERT_EQ(ring.acquire(3).readiness, Readiness::failed);
  const auto freed = ring.take_freed();
  EXPECT_THAT(freed, testing::Contains(3));
  settle(99);
  ASSERT_EQ(ring.acquire(3).readiness, Readiness::ready);
}

TEST(SlotRing, InPlaceAStageWithAnotherSlotIsNotFree) {
  SlotRing ring(layouts({2}),
                {.capacity = 4 * kBlock, .mirrored = true, .chunk = kBlock, .in_place = true});
  while (const auto read = ring.next_read()) ring.complete(read->tag, {});
  ASSERT_EQ(ring.acquire(0).readiness, Readiness::ready);
  ring.release(0);
  EXPECT_THAT(ring.take_freed(), testing::IsEmpty());  // read ahead for the next token
  ASSERT_EQ(ring.acquire(0).readiness, Readiness::ready);
}

}  // namespace
}  // namespace prima::weights

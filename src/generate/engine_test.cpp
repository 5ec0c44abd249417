#include "generate/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "generate/fake_ring.h"

namespace prima::generate {
namespace {

using text::Token;

class EngineTest : public testing::Test {
 protected:
  EngineTest() {
    ring_options.n_vocab = 100;
    ring_options.n_ctx = 16;
    ring_options.max_steps_in_flight = 4;
    ring_options.next_token = [](const std::vector<std::int32_t>& history) {
      return history.back() + 1;
    };
  }

  ManualClock clock;
  FakeRing::Options ring_options;
};

TEST_F(EngineTest, CarriesPartsOfSeveralSequences) {
  FakeRing ring(ring_options, clock);
  Engine engine(ring, {16, 8}, clock);
  Sequence one(0);
  Sequence two(5);
  const std::vector<Token> first = {10, 11, 12};
  const std::vector<Token> second = {20, 21};
  const std::vector<Part> parts = {{&one, first, 1}, {&two, second, 2}};
  const auto id = engine.submit(parts);
  ASSERT_TRUE(id) << id.error().message();
  EXPECT_EQ(engine.in_flight(), 1u);
  const auto finished = engine.next().value();
  EXPECT_EQ(finished.step_id, *id);
  ASSERT_EQ(finished.logits.size(), 3u * 100u);  // one of the first, two of the second
  EXPECT_EQ(finished.logits[13], 10.0f);
  EXPECT_EQ(finished.logits[100 + 21], 10.0f);
  EXPECT_EQ(finished.logits[200 + 22], 10.0f);
  EXPECT_EQ(one.tokens(), first);
  EXPECT_EQ(two.tokens(), second);
}

TEST_F(EngineTest, TellsWhatASequenceDroppedWithItsNextPart) {
  FakeRing ring(ring_options, clock);
  Engine engine(ring, {16, 8}, clock);
  Sequence sequence(0);
  const std::vector<Token> drafted = {10, 11, 12, 13};
  Part part{&sequence, drafted, 4};
  ASSERT_TRUE(engine.submit({&part, 1}));
  ASSERT_TRUE(engine.next());
  engine.truncate(sequence, 2);
  const std::vector<Token> corrected = {50};
  part = {&sequence, corrected, 1};
  ASSERT_TRUE(engine.submit({&part, 1}));
  ASSERT_TRUE(engine.next());
  EXPECT_THAT(ring.history(0), testing::ElementsAre(10, 11, 50));
  EXPECT_EQ(ring.cells_used(), 3u);
  EXPECT_EQ(ring.steps.back().kv_operations.size(), 1u);
}

TEST_F(EngineTest, SequencesShareThePrefixTheyWereGiven) {
  FakeRing ring(ring_options, clock);
  Engine engine(ring, {16, 8}, clock);
  Sequence one(0);
  Sequence two(1);
  const std::vector<Token> prompt = {10, 11, 12, 13};
  Part part{&one, prompt, 1};
  ASSERT_TRUE(engine.submit({&part, 1}));
  engine.copy_prefix(one, two, 3);  // while it is on its way
  EXPECT_EQ(engine.free_cells(), 12u);
  const std::vector<Token> other = {50};
  part = {&two, other, 1};
  ASSERT_TRUE(engine.submit({&part, 1}));
  EXPECT_THAT(ring.history(1), testing::ElementsAre(10, 11, 12, 50));
  EXPECT_EQ(ring.cells_used(), 5u);
  ASSERT_TRUE(engine.drain(std::chrono::seconds(1)));
  // Cells are free once nobody needs them.
  engine.truncate(one, 0);
  EXPECT_EQ(engine.free_cells(), 16u - 4u);
  engine.truncate(two, 1);
  EXPECT_EQ(engine.free_cells(), 16u - 1u);
}

TEST_F(EngineTest, FullCellsChangeNothing) {
  FakeRing ring(ring_options, clock);
  Engine engine(ring, {16, 16}, clock);
  Sequence one(0);
  Sequence two(1);
  const std::vector<Token> tokens(12, 1);
  Part part{&one, tokens, 0};
  ASSERT_TRUE(engine.submit({&part, 1}));
  part = {&two, tokens, 0};
  const auto full = engine.submit({&part, 1});
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, ErrorCode::resource_exhausted);
  EXPECT_EQ(two.size(), 0u);
  const std::vector<Token> fewer(4, 1);
  part = {&two, fewer, 0};
  EXPECT_TRUE(engine.submit({&part, 1}));
  EXPECT_TRUE(engine.drain(std::chrono::seconds(1)));
  EXPECT_EQ(engine.in_flight(), 0u);
}

TEST(Sequence, CommonPrefix) {
  const std::vector<Token> a = {1, 2, 3};
  EXPECT_EQ(common_prefix(a, std::vector<Token>{1, 2, 4, 5}), 2u);
  EXPECT_EQ(common_prefix(a, a), 3u);
  EXPECT_EQ(common_prefix(a, std::vector<Token>{}), 0u);
}

}  // namespace
}  // namespace prima::generate

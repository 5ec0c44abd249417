#include "compute/kv_cells.h"

#include <algorithm>
#include <random>
#include <set>

#include <gtest/gtest.h>

namespace prima::compute {
namespace {

constexpr std::uint16_t kVisible = 0x0000;
constexpr std::uint16_t kHidden = 0xFC00;

Step tokens_of(std::int32_t sequence, std::int32_t first, std::int32_t n) {
  Step step;
  for (std::int32_t i = 0; i < n; ++i) {
    step.sequences.push_back(sequence);
    step.positions.push_back(first + i);
  }
  return step;
}

Step placed(const KvCells& cells, Step step) {
  const Status status = cells.place(step);
  EXPECT_TRUE(status) << status.error().message();
  return step;
}

void add(KvCells& cells, Step step) {
  step = placed(cells, std::move(step));
  const Status status = cells.apply(step);
  ASSERT_TRUE(status) << status.error().message();
}

TEST(KvCells, PlacesTokensInFreeCellsAndReadsWholeGranules) {
  KvCells cells(1024);
  const Step step = placed(cells, tokens_of(0, 0, 3));
  EXPECT_EQ(step.cells, (std::vector<std::uint32_t>{0, 1, 2}));
  EXPECT_EQ(step.n_kv, 256u);
  ASSERT_TRUE(cells.apply(step));
  EXPECT_EQ(cells.used(), 3u);
  EXPECT_EQ(placed(cells, tokens_of(0, 3, 254)).n_kv, 512u);
}

TEST(KvCells, ReadsNoMoreCellsThanThereAre) {
  const KvCells cells(100);
  EXPECT_EQ(placed(cells, tokens_of(0, 0, 7)).n_kv, 100u);
}

TEST(KvCells, SaysHowFullTheContextIs) {
  KvCells cells(8);
  add(cells, tokens_of(0, 0, 6));
  Step step = tokens_of(0, 6, 3);
  const Status status = cells.place(step);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::resource_exhausted);
  EXPECT_NE(status.error().message().find("3 tokens to add, room for 2 of 8"), std::string::npos);
}

TEST(KvCells, MaskIsCausalAndKeepsSequencesApart) {
  KvCells cells(256);
  add(cells, tokens_of(0, 0, 2));
  Step step = tokens_of(1, 0, 2);
  step.sequences.push_back(0);
  step.positions.push_back(2);
  step = placed(cells, step);
  ASSERT_TRUE(cells.apply(step));

  std::vector<std::uint16_t> mask(std::size_t{step.n_kv} * step.n_tokens());
  cells.fill_mask(step, 0, mask);
  const std::uint16_t expected[3][5] = {
      {kHidden, kHidden, kVisible, kHidden, kHidden},
      {kHidden, kHidden, kVisible, kVisible, kHidden},
      {kVisible, kVisible, kHidden, kHidden, kVisible},
  };
  for (int token = 0; token < 3; ++token) {
    for (std::uint32_t cell = 0; cell < step.n_kv; ++cell) {
      const std::uint16_t wanted = cell < 5 ? expected[token][cell] : kHidden;
      EXPECT_EQ(mask[std::size_t{step.n_kv} * token + cell], wanted) << token << " " << cell;
    }
  }
}

TEST(KvCells, SlidingWindowHidesWhatIsTooOld) {
  KvCells cells(256);
  const Step step = placed(cells, tokens_of(0, 0, 6));
  ASSERT_TRUE(cells.apply(step));
  std::vector<std::uint16_t> mask(std::size_t{step.n_kv} * step.n_tokens());
  cells.fill_mask(step, 3, mask);
  const std::uint16_t* last = mask.data() + std::size_t{step.n_kv} * 5;
  for (std::uint32_t cell = 0; cell < 6; ++cell) {
    EXPECT_EQ(last[cell], cell >= 3 ? kVisible : kHidden) << cell;
  }
}

TEST(KvCells, RemovingFreesAndCopyingShares) {
  KvCells cells(16);
  add(cells, tokens_of(0, 0, 8));

  Step share = tokens_of(1, 8, 1);
  share.kv_operations = {
      {.kind = KvOperation::Kind::copy, .sequence = 0, .target = 1, .from = 0, .to = 8}};
  add(cells, share);
  EXPECT_EQ(cells.used(), 9u);
  EXPECT_EQ(cells.last_position(0), 7);
  EXPECT_EQ(cells.last_position(1), 8);

  Step drop = tokens_of(1, 9, 1);
  drop.kv_operations = {
      {.kind = KvOperation::Kind::remove, .sequence = 0, .target = 0, .from = 0, .to = 100}};
  add(cells, drop);
  EXPECT_EQ(cells.used(), 10u) << "shared cells stay";

  Step roll_back = tokens_of(1, 4, 1);
  roll_back.kv_operations = {
      {.kind = KvOperation::Kind::remove, .sequence = 1, .target = 0, .from = 4, .to = 100}};
  add(cells, roll_back);
  EXPECT_EQ(cells.used(), 5u);
  EXPECT_EQ(cells.last_position(1), 4);
}

TEST(KvCells, RefusesStepsThatContradictItAndChangesNothing) {
  KvCells cells(256);
  add(cells, tokens_of(0, 0, 4));
  const Step good = placed(cells, tokens_of(0, 4, 2));

  std::vector<Step> bad(9, good);
  bad[0].cells[0] = 256;              // out of range
  bad[1].cells[0] = 0;                // in use
  bad[2].cells[1] = bad[2].cells[0];  // twice
  bad[3].cells.pop_back();            // too few
  bad[4].sequences[0] = kMaxSequences;
  bad[5].n_kv = 0;
  bad[6].n_kv = 5;       // reads fewer than are in use
  bad[7].outputs = {2};  // no such token
  bad[8].kv_operations = {
      {.kind = KvOperation::Kind::remove, .sequence = -1, .target = 0, .from = 0, .to = 1}};
  for (std::size_t i = 0; i < bad.size(); ++i) {
    const Status status = cells.apply(bad[i]);
    ASSERT_FALSE(status) << i;
    EXPECT_EQ(status.error().code, ErrorCode::corrupt) << i;
    EXPECT_EQ(cells.used(), 4u) << i;
  }
  EXPECT_TRUE(cells.apply(good));
}

// Against a plain model: a set of (sequence, position) pairs.
TEST(KvCells, RandomStepsKeepExactlyWhatTheyShould) {
  std::mt19937 random(7);
  KvCells cells(64);
  std::set<std::pair<std::int32_t, std::int32_t>> expected;
  for (int round = 0; round < 2000; ++round) {
    const auto sequence = static_cast<std::int32_t>(random() % 4);
    Step step = tokens_of(sequence, cells.last_position(sequence) + 1,
                          static_cast<std::int32_t>(random() % 5) + 1);
    auto after = expected;
    if (random() % 3 == 0) {
      const auto victim = static_cast<std::int32_t>(random() % 4);
      const auto from = static_cast<std::int32_t>(random() % 20);
      if (victim != sequence) {
        step.kv_operations = {{.kind = KvOperation::Kind::remove,
                               .sequence = victim,
                               .target = 0,
                               .from = from,
                               .to = 1 << 20}};
        std::erase_if(
            after, [&](const auto& pair) { return pair.first == victim && pair.second >= from; });
      }
    }
    for (const std::int32_t position : step.positions) after.emplace(sequence, position);
    if (!cells.place(step)) {
      cells.clear();
      expected.clear();
      continue;
    }
    ASSERT_TRUE(cells.apply(step));
    expected = after;
    ASSERT_EQ(cells.used(), expected.size());
    std::vector<std::uint16_t> mask(std::size_t{step.n_kv} * step.n_tokens());
    cells.fill_mask(step, 0, mask);
    const auto visible = std::count(mask.end() - step.n_kv, mask.end(), kVisible);
    const auto wanted = std::count_if(expected.begin(), expected.end(), [&](const auto& pair) {
      return pair.first == sequence && pair.second <= step.positions.back();
    });
    ASSERT_EQ(visible, wanted);
  }
}

}  // namespace
}  // namespace prima::compute

#include <cmath>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "generate/batcher.h"
#include "generate/draft_length.h"
#include "generate/fake_ring.h"
#include "generate/generator.h"
#include "generate/ngram_drafter.h"
#include "generate/step_cost.h"
#include "text/test_vocabulary.h"

namespace prima::generate {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using text::Token;
using namespace std::chrono_literals;

TEST(StepCost, EstimatesBetweenAndBeyondWhatWasMeasured) {
  StepCost cost;
  EXPECT_FALSE(cost.estimate(1));
  cost.observe(1, 100ms);
  EXPECT_EQ(cost.estimate(1), 100ms);
  EXPECT_EQ(cost.estimate(9), 100ms);
  cost.observe(5, 140ms);
  EXPECT_NEAR(milliseconds(*cost.estimate(3)), 120, 1e-3);
  EXPECT_NEAR(milliseconds(*cost.estimate(9)), 180, 1e-3);
  EXPECT_EQ(cost.largest(), 5u);
  // The first of a size builds its graph and does not count once there is a second.
  cost.observe(5, 120ms);
  EXPECT_EQ(cost.estimate(5), 120ms);
}

TEST(NgramDrafter, LooksUpTheLongestEnding) {
  const std::vector<Token> text = {1, 2, 3, 4, 5, 6, 9, 2, 3, 7, 8, 1, 2, 3};
  EXPECT_THAT(look_up_ngram(text, 3), ElementsAre(4, 5, 6));
  EXPECT_THAT(look_up_ngram(text, 1), ElementsAre(4));
  EXPECT_THAT(look_up_ngram(text, 0), IsEmpty());
  EXPECT_THAT(look_up_ngram(std::vector<Token>{1, 2, 3, 4}, 5), IsEmpty());
  EXPECT_THAT(look_up_ngram(std::vector<Token>{1}, 5), IsEmpty());
  // What repeats goes on repeating.
  EXPECT_THAT(look_up_ngram(std::vector<Token>{7, 8, 7, 8}, 5), ElementsAre(7, 8, 7, 8, 7));
}

class DraftLengthTest : public testing::Test {
 protected:
  std::vector<std::uint32_t> choose(const std::vector<double>& acceptances,
                                    Duration per_token = {}) {
    std::vector<std::uint32_t> lengths(acceptances.size());
    choose_draft_lengths(static_cast<std::uint32_t>(acceptances.size()), acceptances,
                         {.step = cost, .per_drafted_token = per_token, .most = 16, .room = 100},
                         lengths);
    return lengths;
  }

  StepCost cost;
};

TEST_F(DraftLengthTest, LongWhereTokensCostNothing) {
  cost.observe(1, 1s);
  cost.observe(16, 1s);
  EXPECT_GE(choose({0.8})[0], 10u);
  EXPECT_GE(choose({0.99})[0], 15u);
}

TEST_F(DraftLengthTest, NoneWhereEachTokenCostsAsMuchAsAStep) {
  cost.observe(1, 100ms);
  cost.observe(2, 195ms);
  EXPECT_EQ(choose({0.9})[0], 0u);
  EXPECT_EQ(choose({0.9, 0.9}), (std::vector<std::uint32_t>{0, 0}));
}

TEST_F(DraftLengthTest, TheDraftersTimeCounts) {
  cost.observe(1, 100ms);
  cost.observe(9, 110ms);
  EXPECT_GT(choose({0.7})[0], 2u);
  EXPECT_EQ(choose({0.7}, 80ms)[0], 0u);
}

TEST_F(DraftLengthTest, ThoseWhoseDraftsAreRightGetMore) {
  cost.observe(2, 100ms);
  cost.observe(10, 140ms);
  const auto lengths = choose({0.9, 0.3});
  EXPECT_GT(lengths[0], lengths[1]);
}

TEST_F(DraftLengthTest, SizesNeverTriedAreApproached) {
  cost.observe(1, 100ms);
  EXPECT_EQ(choose({0.9})[0], 1u);
  cost.observe(2, 100ms);
  EXPECT_EQ(choose({0.9})[0], 3u);
}

TEST(DraftRecord, PausesGrowUntilDraftingPays) {
  DraftRecord record;
  EXPECT_FALSE(record.paused());
  record.pause();
  int first = 0;
  while (record.paused()) ++first;
  record.pause();
  int second = 0;
  while (record.paused()) ++second;
  EXPECT_EQ(second, 2 * first);
  record.pays();
  EXPECT_FALSE(record.is_tried_again());
}

// ---- In answers --------------------------------------------------------------------------------

// Guesses the toy model's next tokens, and is right as often as told.
class OracleDrafter final : public Drafter {
 public:
  OracleDrafter(const FakeRing::Options& ring, int right_of_ten)
      : ring_(ring), right_of_ten_(right_of_ten) {}

  Status draft(std::span<Draft> drafts) override {
    for (Draft& draft : drafts) {
      std::vector<std::int32_t> history(draft.history.begin(), draft.history.end());
      for (std::uint32_t i = 0; i < draft.most; ++i) {
        const bool right = (asked_++ * 7) % 10 < right_of_ten_;
        const Token next = ring_.next_token(history);
        draft.tokens.push_back(right ? next : (next + 1) % static_cast<Token>(ring_.n_vocab));
        history.push_back(draft.tokens.back());
      }
    }
    return {};
  }
  std::uint32_t most() const override { return 8; }
  int asked() const { return asked_; }

 private:
  const FakeRing::Options& ring_;
  const int right_of_ten_;
  int asked_ = 0;
};

class SpeculationTest : public testing::Test {
 protected:
  SpeculationTest() {
    ring_options.n_vocab = static_cast<std::uint32_t>(tokenizer.n_vocab());
    ring_options.n_ctx = 2048;
    ring_options.step_time = 100ms;
    ring_options.next_token = [](const std::vector<std::int32_t>& history) {
      std::size_t sum = history.size();
      for (const std::int32_t token : history) sum += 7 * static_cast<std::size_t>(token);
      return static_cast<std::int32_t>(270 + sum % 60);
    };
  }

  // Answers to some prompts at once; the time that took.
  std::pair<std::vector<Answer>, Duration> answer(Drafter* drafter, int n_users = 1,
                                                  text::SamplerOptions sampling = {
                                                      .temperature = 0}) {
    ManualClock clock;
    FakeRing ring(ring_options, clock);
    Engine engine(ring, {ring_options.n_ctx, 256}, clock);
    Batcher batcher(engine, tokenizer, {}, clock, drafter);
    std::vector<Answer> answers(static_cast<std::size_t>(n_users));
    for (int i = 0; i < n_users; ++i) {
      sampling.seed = static_cast<std::uint32_t>(i);
      EXPECT_TRUE(batcher.add(
          {.prompt = {265, 270 + i, 281, 292}, .max_tokens = 200, .ignore_end = true},
          text::Sampler::create(tokenizer, sampling).value(), [&answers, i](Result<Answer> result) {
            answers[static_cast<std::size_t>(i)] = std::move(result.value());
          }));
    }
    while (!batcher.idle()) EXPECT_TRUE(batcher.work());
    EXPECT_LE(ring.cells_used(), static_cast<std::uint32_t>(n_users) * 204u)
        << "drafts are removed";
    return {std::move(answers), clock.now().time_since_epoch()};
  }

  text::TestVocabulary vocabulary;
  text::Tokenizer tokenizer = text::Tokenizer::load(vocabulary.path()).value();
  FakeRing::Options ring_options;
};

TEST_F(SpeculationTest, WritesTheSameInLessTime) {
  const auto [plain, plain_time] = answer(nullptr);
  OracleDrafter drafter(ring_options, 8);
  const auto [drafted, drafted_time] = answer(&drafter);
  EXPECT_EQ(drafted[0].text, plain[0].text);
  EXPECT_EQ(drafted[0].tokens.size(), 200u);
  EXPECT_LT(3 * drafted_time, plain_time);
  EXPECT_GT(drafted[0].statistics.n_accepted, 100u);
}

TEST_F(SpeculationTest, SeveralAnswersAtOnce) {
  const auto [plain, plain_time] = answer(nullptr, 5);
  OracleDrafter drafter(ring_options, 9);
  const auto [drafted, drafted_time] = answer(&drafter, 5);
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(drafted[i].text, plain[i].text);
  EXPECT_LT(2 * drafted_time, plain_time);
}

TEST_F(SpeculationTest, TheSameSeedGivesTheSameAnswer) {
  const text::SamplerOptions sampling{.temperature = 3.0f, .top_k = 0, .top_p = 1, .min_p = 0};
  const auto [plain, plain_time] = answer(nullptr, 2, sampling);
  OracleDrafter drafter(ring_options, 8);
  const auto [drafted, drafted_time] = answer(&drafter, 2, sampling);
  EXPECT_NE(plain[0].text, plain[1].text);
  for (std::size_t i = 0; i < 2; ++i) EXPECT_EQ(drafted[i].text, plain[i].text);
}

TEST_F(SpeculationTest, WhereTokensCostAsMuchAsStepsItSwitchesItselfOff) {
  ring_options.step_time = 1ms;
  ring_options.token_time = 100ms;
  const auto [plain, plain_time] = answer(nullptr);
  OracleDrafter drafter(ring_options, 3);
  const auto [drafted, drafted_time] = answer(&drafter);
  EXPECT_EQ(drafted[0].text, plain[0].text);
  EXPECT_LT(drafted_time, plain_time + plain_time * 3 / 100);
}

TEST_F(SpeculationTest, UselessDraftsAreSoonGivenUp) {
  ring_options.step_time = 70ms;
  ring_options.token_time = 30ms;
  const auto [plain, plain_time] = answer(nullptr);
  OracleDrafter drafter(ring_options, 0);
  const auto [drafted, drafted_time] = answer(&drafter);
  EXPECT_EQ(drafted[0].text, plain[0].text);
  EXPECT_LT(drafted_time, plain_time + plain_time * 5 / 100);
}

TEST_F(SpeculationTest, AnswersThatRepeatTheirPromptAreLookedUp) {
  ring_options.next_token = [](const std::vector<std::int32_t>& history) {
    return static_cast<std::int32_t>(270 + history.size() % 37);
  };
  const auto [plain, plain_time] = answer(nullptr);
  NgramDrafter drafter;
  const auto [drafted, drafted_time] = answer(&drafter);
  EXPECT_EQ(drafted[0].text, plain[0].text);
  EXPECT_LT(2 * drafted_time, plain_time);
}

// The first tokens of many answers, sampled with drafts, are distributed as the model says.
TEST_F(SpeculationTest, TheDistributionIsTheTargets) {
  // Ten tokens with logits 0 to 4.5 after anything: the fake ring's favourite alone is not enough.
  class SpreadRing final : public ring::Ring {
   public:
    SpreadRing(FakeRing& ring, std::size_t n_vocab) : ring_(ring), n_vocab_(n_vocab) {}
    Status submit(const compute::Step& step, std::span<const std::int32_t> tokens,
                  Instant deadline) override {
      return ring_.submit(step, tokens, deadline);
    }
    Result<Finished> next(Instant deadline) override {
      auto finished = ring_.next(deadline);
      if (!finished) return finished;
      for (std::size_t i = 0; i < finished->logits.size(); ++i) {
        const std::size_t token = i % n_vocab_;
        finished->logits[i] = token >= 270 && token < 280 ? 0.5f * float(token - 270) : -100.0f;
      }
      return finished;
    }
    std::size_t in_flight() const override { return ring_.in_flight(); }
    Status reset(Instant deadline) override { return ring_.reset(deadline); }
    ring::RingDescription describe() const override { return ring_.describe(); }

   private:
    FakeRing& ring_;
    std::size_t n_vocab_;
  };
  // Guesses the likeliest token twice, then an unlikely one.
  class FixedDrafter final : public Drafter {
   public:
    Status draft(std::span<Draft> drafts) override {
      for (Draft& draft : drafts) {
        for (std::uint32_t i = 0; i < draft.most; ++i) draft.tokens.push_back(i < 2 ? 279 : 272);
      }
      return {};
    }
    std::uint32_t most() const override { return 3; }
  };

  ManualClock clock;
  FakeRing fake(ring_options, clock);
  SpreadRing ring(fake, ring_options.n_vocab);
  Engine engine(ring, {ring_options.n_ctx, 256}, clock);
  FixedDrafter drafter;
  Batcher batcher(engine, tokenizer, {}, clock, &drafter);
  std::map<Token, int> counts;
  int total = 0;
  std::uint32_t accepted = 0;
  for (std::uint32_t seed = 0; seed < 20; ++seed) {
    const Answer answer =
        generate(
            batcher,
            text::Sampler::create(
                tokenizer, {.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = seed})
                .value(),
            {.prompt = {300, 301}, .max_tokens = 1000, .ignore_end = true}, clock)
            .value();
    accepted += answer.statistics.n_accepted;
    for (const AnswerToken& token : answer.tokens) {
      ++counts[token.token];
      ++total;
    }
  }
  ASSERT_EQ(total, 20000);
  EXPECT_GT(accepted, 1000u);
  double sum = 0.0;
  for (int i = 0; i < 10; ++i) sum += std::exp(0.5 * i);
  double chi_squared = 0.0;
  for (int i = 0; i < 10; ++i) {
    const double expected = total * std::exp(0.5 * i) / sum;
    chi_squared += std::pow(counts[270 + i] - expected, 2) / expected;
  }
  EXPECT_LT(chi_squared, 27.9);  // nine degrees of freedom, p = 0.001
}

}  // namespace
}  // namespace prima::generate

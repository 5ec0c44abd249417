#include "generate/guess_ahead.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "generate/batcher.h"
#include "generate/fake_ring.h"
#include "generate/model_drafter.h"
#include "model/synth.h"
#include "text/test_vocabulary.h"

namespace prima::generate {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using text::Token;
using namespace std::chrono_literals;

// Guesses what it is told, each token in its time, ahead too, and keeps what it has guessed as a
// draft model does.
class TimedDrafter final : public Drafter {
 public:
  using Guess = std::function<Token(const std::vector<Token>& text)>;

  TimedDrafter(ManualClock& clock, Duration each, Guess guess)
      : clock_(clock), each_(each), guess_(std::move(guess)) {}

  Status draft(std::span<Draft> drafts) override {
    for (Draft& draft : drafts) {
      if (draft.most == 0) continue;
      std::vector<Token>& text = texts_[draft.sequence];
      if (n_ready(draft) == 0) text.assign(draft.history.begin(), draft.history.end());
      while (text.size() < draft.history.size() + draft.most) add(text);
      const auto from = text.begin() + static_cast<std::ptrdiff_t>(draft.history.size());
      draft.tokens.assign(from, from + draft.most);
    }
    return {};
  }

  Status guess_further(std::span<const std::int32_t> sequences) override {
    if (!guesses_ahead) return Drafter::guess_further(sequences);
    slices.emplace_back(sequences.begin(), sequences.end());
    for (const std::int32_t sequence : sequences) add(texts_.at(sequence));
    return {};
  }

  std::uint32_t n_ready(const Draft& draft) const override {
    const auto found = texts_.find(draft.sequence);
    const std::size_t n = draft.history.size();
    if (found == texts_.end() || found->second.size() <= n) return 0;
    if (common_prefix(found->second, draft.history) < n) return 0;
    return static_cast<std::uint32_t>(found->second.size() - n);
  }

  std::uint32_t most() const override { return 4; }
  Duration cost_of_a_token() const override { return each_; }

  bool guesses_ahead = true;
  std::vector<std::vector<std::int32_t>> slices;

 private:
  void add(std::vector<Token>& text) {
    text.push_back(guess_(text));
    clock_.advance(each_);
  }

  ManualClock& clock_;
  const Duration each_;
  const Guess guess_;
  std::map<std::int32_t, std::vector<Token>> texts_;
};

// ---- When --------------------------------------------------------------------------------------

class GuessAheadTest : public testing::Test {
 protected:
  GuessAheadTest() {
    std::vector<Token> history = {1, 2};
    for (const std::int32_t sequence : {0, 5}) {
      std::vector<Draft> drafts{{.sequence = sequence, .history = history, .most = 2}};
      EXPECT_TRUE(drafter.draft(drafts));
    }
  }

  // Waits so long; the slices that were done meanwhile.
  std::size_t wait(Duration length) {
    const std::size_t before = drafter.slices.size();
    const Instant start = clock.now();
    while (clock.now() < start + length && ahead.work(0, clock.now() - start)) {
    }
    clock.set(std::max(clock.now(), start + length));
    delay = clock.now() - (start + length);
    ahead.ended(0, clock.now() - start);
    return drafter.slices.size() - before;
  }

  ManualClock clock;
  TimedDrafter drafter{clock, 10ms, [](const auto&) { return 7; }};
  GuessAhead ahead{drafter};
  Duration delay{};  // of what was waited for
};

TEST_F(GuessAheadTest, OnlyInWaitsThatLastLonger) {
  ahead.bet(0, 2, 0.9, 100);
  EXPECT_EQ(wait(55ms), 0u) << "nothing is known yet";
  EXPECT_EQ(wait(55ms), 0u);
  EXPECT_EQ(wait(55ms), 5u);
  EXPECT_EQ(delay, 0ms);
  for (int i = 0; i < 30; ++i) wait(9ms);
  const std::size_t before = drafter.slices.size();
  for (int i = 0; i < 10; ++i) wait(9ms);
  EXPECT_EQ(drafter.slices.size(), before);
}

TEST_F(GuessAheadTest, AWaitThatEndsWithinASliceMakesItCautious) {
  ahead.bet(0, 2, 0.9, 100);
  wait(55ms);
  wait(55ms);
  EXPECT_EQ(wait(1ms), 1u);
  EXPECT_EQ(delay, 9ms);
  int late = 0;
  for (int i = 0; i < 50; ++i) {
    wait(1ms);
    late += delay > 0ms;
  }
  EXPECT_LE(late, 5);
  // And it finds out that waits have become long again.
  for (int i = 0; i < 20; ++i) wait(55ms);
  EXPECT_EQ(wait(55ms), 5u);
}

TEST_F(GuessAheadTest, PlacesAreKnownApart) {
  ahead.bet(0, 2, 0.9, 100);
  wait(55ms);
  wait(55ms);
  EXPECT_FALSE(ahead.work(IdleWork::kRing, 0ms));
  EXPECT_TRUE(ahead.work(0, 0ms));
}

TEST_F(GuessAheadTest, AsManyAsWereAskedFor) {
  wait(95ms);
  wait(95ms);
  EXPECT_EQ(wait(95ms), 0u) << "no bets";
  ahead.bet(0, 2, 0.9, 1);
  ahead.bet(5, 2, 0.9, 3);
  EXPECT_EQ(wait(95ms), 3u);
  EXPECT_THAT(drafter.slices, ElementsAre(ElementsAre(0, 5), ElementsAre(5), ElementsAre(5)));
  EXPECT_EQ(ahead.guessed(), 4u);
  ahead.bet(0, 2, 0.9, 3);
  ahead.bet(5, 2, 0.9, 3);
  ahead.settle(0);
  EXPECT_EQ(wait(95ms), 3u);
  EXPECT_THAT(drafter.slices.back(), ElementsAre(5));
}

TEST_F(GuessAheadTest, BadBetsAreNotMade) {
  wait(95ms);
  wait(95ms);
  ahead.bet(0, 4, 0.5, 3);  // 3 % are won
  ahead.bet(5, 0, 0.9, 3);  // nothing was drafted
  EXPECT_EQ(wait(95ms), 0u);
}

// ---- In answers --------------------------------------------------------------------------------

class AnswersTest : public testing::TestWithParam<bool> {
 protected:
  AnswersTest() {
    ring_options.n_vocab = static_cast<std::uint32_t>(tokenizer.n_vocab());
    ring_options.n_ctx = 2048;
    ring_options.step_time = 100ms;
    ring_options.waits_in_submit = GetParam();
    ring_options.next_token = [](const std::vector<std::int32_t>& history) {
      std::size_t sum = history.size();
      for (const std::int32_t token : history) sum += 7 * static_cast<std::size_t>(token);
      return static_cast<std::int32_t>(270 + sum % 60);
    };
  }

  // Wrong about each n-th place of a text; 0: never.
  TimedDrafter::Guess wrong_each(std::size_t n) const {
    return [this, n](const std::vector<Token>& text) {
      const Token right = ring_options.next_token(text);
      return n > 0 && text.size() % n == 0 ? (right + 1) % 300 : right;
    };
  }

  struct Outcome {
    std::vector<Answer> answers;
    Duration time{};
    BatcherStatistics statistics;
  };

  // Without a drafter where each token takes no time.
  Outcome answer(Duration each, TimedDrafter::Guess guess, bool guesses_ahead, int n_users = 1) {
    ManualClock clock;
    FakeRing ring(ring_options, clock);
    Engine engine(ring, {ring_options.n_ctx, 256}, clock);
    TimedDrafter drafter(clock, each, std::move(guess));
    drafter.guesses_ahead = guesses_ahead;
    Batcher batcher(engine, tokenizer, {}, clock, each > 0ms ? &drafter : nullptr);
    Outcome outcome;
    outcome.answers.resize(static_cast<std::size_t>(n_users));
    for (int i = 0; i < n_users; ++i) {
      EXPECT_TRUE(
          batcher.add({.prompt = {265, 270 + i, 281, 292}, .max_tokens = 200, .ignore_end = true},
                      text::Sampler::create(tokenizer, {.temperature = 0}).value(),
                      [&outcome, i](Result<Answer> result) {
                        outcome.answers[static_cast<std::size_t>(i)] = std::move(result.value());
                      }));
    }
    while (!batcher.idle()) EXPECT_TRUE(batcher.work());
    EXPECT_LE(ring.cells_used(), static_cast<std::uint32_t>(n_users) * 204u);
    outcome.time = clock.now().time_since_epoch();
    outcome.statistics = batcher.statistics();
    return outcome;
  }

  text::TestVocabulary vocabulary;
  text::Tokenizer tokenizer = text::Tokenizer::load(vocabulary.path()).value();
  FakeRing::Options ring_options;
};

TEST_P(AnswersTest, DraftsThatAreRightTakeNoTimeOfTheirOwn) {
  const Outcome plain = answer(0ms, {}, false);
  const Outcome before = answer(10ms, wrong_each(0), false);
  const Outcome ahead = answer(10ms, wrong_each(0), true);
  EXPECT_EQ(before.answers[0].text, plain.answers[0].text);
  EXPECT_EQ(ahead.answers[0].text, plain.answers[0].text);
  // A cycle: 140 ms, and 100.
  EXPECT_GT(before.time, 140ms * 38);
  EXPECT_LT(ahead.time, 100ms * 48);
  EXPECT_GT(ahead.statistics.drafted_ahead_tokens, 120u);
}

TEST_P(AnswersTest, LostBetsTakeNoTime) {
  const Outcome plain = answer(0ms, {}, false);
  for (const std::size_t wrong : {2, 3, 4, 5, 7}) {
    const Outcome before = answer(10ms, wrong_each(wrong), false);
    const Outcome ahead = answer(10ms, wrong_each(wrong), true);
    EXPECT_EQ(ahead.answers[0].text, plain.answers[0].text) << wrong;
    EXPECT_LE(ahead.time, before.time) << wrong;
  }
}

TEST_P(AnswersTest, WhereTheRingIsFasterThanASliceNothingIsGuessedAhead) {
  ring_options.step_time = 100ms;
  const Outcome plain = answer(0ms, {}, false);
  const Outcome before = answer(120ms, wrong_each(0), false);
  const Outcome ahead = answer(120ms, wrong_each(0), true);
  EXPECT_EQ(ahead.answers[0].text, plain.answers[0].text);
  EXPECT_EQ(ahead.time, before.time);
  EXPECT_EQ(ahead.statistics.guessed_ahead_tokens, 0u);
}

TEST_P(AnswersTest, SeveralAtOnce) {
  const Outcome plain = answer(0ms, {}, false, 5);
  const Outcome before = answer(3ms, wrong_each(9), false, 5);
  const Outcome ahead = answer(3ms, wrong_each(9), true, 5);
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(ahead.answers[i].text, plain.answers[i].text);
  EXPECT_LT(ahead.time, before.time * 9 / 10);
  EXPECT_GT(ahead.statistics.drafted_ahead_tokens, 100u);
}

INSTANTIATE_TEST_SUITE_P(Waiting, AnswersTest, testing::Bool(), [](const auto& waits_in_submit) {
  return waits_in_submit.param ? "ForItsDisk" : "ForOthers";
});

using CancelledAnswersTest = AnswersTest;

// The next request takes the sequence over that a bet was made on.
TEST_P(CancelledAnswersTest, ABetUnderWayIsDropped) {
  ManualClock clock;
  FakeRing ring(ring_options, clock);
  Engine engine(ring, {ring_options.n_ctx, 256}, clock);
  TimedDrafter drafter(clock, 10ms, wrong_each(0));
  Batcher batcher(engine, tokenizer, {}, clock, &drafter);
  std::vector<std::string> texts;
  const auto add = [&](Token last) {
    return batcher
        .add({.prompt = {265, 270, 281, last}, .max_tokens = 40, .ignore_end = true},
             text::Sampler::create(tokenizer, {.temperature = 0}).value(),
             [&](Result<Answer> answer) { texts.push_back(answer.value().text); })
        .value();
  };
  const Batcher::Id first = add(292);
  // Until a step is out on which somebody has bet, and a slice was done.
  const auto interrupted = [&] { return !drafter.slices.empty(); };
  while (drafter.slices.empty() || batcher.steps_in_flight() == 0) {
    ASSERT_FALSE(batcher.idle());
    ASSERT_TRUE(batcher.work(interrupted));
  }
  batcher.cancel(first);
  const std::size_t n_slices = drafter.slices.size();
  while (batcher.steps_in_flight() > 0) ASSERT_TRUE(batcher.work());
  EXPECT_EQ(drafter.slices.size(), n_slices);
  for (const Token last : {292, 299}) {
    add(last);
    while (!batcher.idle()) ASSERT_TRUE(batcher.work());
    ManualClock plain_clock;
    FakeRing plain_ring(ring_options, plain_clock);
    Engine plain_engine(plain_ring, {ring_options.n_ctx, 256}, plain_clock);
    Batcher plain(plain_engine, tokenizer, {}, plain_clock);
    std::string expected;
    ASSERT_TRUE(plain.add({.prompt = {265, 270, 281, last}, .max_tokens = 40, .ignore_end = true},
                          text::Sampler::create(tokenizer, {.temperature = 0}).value(),
                          [&](Result<Answer> answer) { expected = answer.value().text; }));
    while (!plain.idle()) ASSERT_TRUE(plain.work());
    EXPECT_EQ(texts.back(), expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Waiting, CancelledAnswersTest, testing::Values(false));

// ---- With a model ------------------------------------------------------------------------------

class ModelDrafterTest : public testing::Test {
 protected:
  ModelDrafterTest() {
    EXPECT_TRUE(model::synthesize(
        {.n_layer = 2, .n_embd = 64, .n_head = 4, .n_vocab = 400, .mixture = "F32"}, path));
  }
  ~ModelDrafterTest() override { std::filesystem::remove(path); }

  std::unique_ptr<ModelDrafter> load(std::uint32_t n_ctx = 256) {
    compute::ExecutorOptions options;
    options.n_ctx = n_ctx;
    options.max_tokens = 64;
    options.n_threads = 1;
    return ModelDrafter::load(path, text::Tokenizer::load(path).value(), options, clock).value();
  }

  static std::vector<Token> draft(ModelDrafter& drafter, const std::vector<Token>& history,
                                  std::uint32_t most, std::int32_t sequence = 0) {
    std::vector<Draft> drafts{{.sequence = sequence, .history = history, .most = most}};
    EXPECT_TRUE(drafter.draft(drafts));
    return drafts[0].tokens;
  }

  static std::vector<Token> joined(std::vector<Token> a, const std::vector<Token>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }

  const std::filesystem::path path = std::filesystem::temp_directory_path() /
                                     ("prima-drafter-" + std::to_string(::getpid()) + ".gguf");
  const SystemClock clock;
  const std::vector<Token> history{270, 280, 290, 300, 285};
};

TEST_F(ModelDrafterTest, WhatItGuessedAheadIsWhatItWouldHaveDrafted) {
  const std::vector<Token> expected = draft(*load(), history, 9);
  const auto drafter = load();
  EXPECT_EQ(draft(*drafter, history, 3), std::vector(expected.begin(), expected.begin() + 3));
  const std::vector<std::int32_t> sequence{0};
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(drafter->guess_further(sequence));
  // All right, and the guess of the token between.
  const auto grown = joined(history, {expected.begin(), expected.begin() + 4});
  EXPECT_EQ(drafter->n_ready({.sequence = 0, .history = grown}), 3u);
  EXPECT_EQ(draft(*drafter, grown, 2), std::vector(expected.begin() + 4, expected.begin() + 6));
  EXPECT_EQ(draft(*drafter, grown, 5), std::vector(expected.begin() + 4, expected.end()));
}

TEST_F(ModelDrafterTest, ALostBetLeavesNothingBehind) {
  const auto drafter = load();
  const std::vector<std::int32_t> sequence{0};
  for (std::size_t n_right = 0; n_right < 4; ++n_right) {
    const std::vector<Token> guess = draft(*drafter, history, 4);
    for (int i = 0; i < 5; ++i) ASSERT_TRUE(drafter->guess_further(sequence));
    auto grown = joined(history, {guess.begin(), guess.begin() + static_cast<long>(n_right)});
    grown.push_back((guess[n_right] + 1) % 300);
    EXPECT_EQ(drafter->n_ready({.sequence = 0, .history = grown}), 0u);
    EXPECT_EQ(draft(*drafter, grown, 6), draft(*load(), grown, 6)) << n_right;
  }
}

TEST_F(ModelDrafterTest, ASequencesNextConversationIsNotTheLastOnes) {
  const auto drafter = load();
  draft(*drafter, history, 4);
  ASSERT_TRUE(drafter->guess_further(std::vector<std::int32_t>{0}));
  const std::vector<Token> other{301, 302};
  EXPECT_EQ(draft(*drafter, other, 6), draft(*load(), other, 6));
}

TEST_F(ModelDrafterTest, GuessingAheadEndsWhereThereIsNoRoom) {
  const auto drafter = load(12);
  EXPECT_FALSE(drafter->guess_further(std::vector<std::int32_t>{0})) << "nothing to go on from";
  draft(*drafter, history, 4);  // 8 cells
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(drafter->guess_further(std::vector<std::int32_t>{0}));
  const Status full = drafter->guess_further(std::vector<std::int32_t>{0});
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, ErrorCode::resource_exhausted);
  // Drafting for another takes the cells.
  EXPECT_EQ(draft(*drafter, history, 4, 1).size(), 4u);
}

}  // namespace
}  // namespace prima::generate

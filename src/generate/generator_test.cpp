#include "generate/generator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "generate/fake_ring.h"
#include "text/test_vocabulary.h"

namespace prima::generate {
namespace {

using text::Token;
using namespace std::chrono_literals;

class GeneratorTest : public testing::Test {
 protected:
  GeneratorTest() {
    ring_options.n_vocab = static_cast<std::uint32_t>(tokenizer.n_vocab());
    // 'a', 'b', ... by how many tokens there are; any other history gives another text.
    ring_options.next_token = [this](const std::vector<std::int32_t>& history) {
      std::size_t sum = history.size();
      for (const std::int32_t token : history) sum += 7 * static_cast<std::size_t>(token);
      return letter(static_cast<char>('a' + sum % 26));
    };
    // A repeatable sampler: the likeliest token.
    sampler_options.temperature = 0;
  }

  Token letter(char c) const { return vocabulary.token(std::string(1, c)); }

  std::vector<Token> letters(const std::string& text) const {
    std::vector<Token> tokens;
    for (const char c : text) tokens.push_back(letter(c));
    return tokens;
  }

  FakeRing& ring() {
    if (!ring_) ring_.emplace(ring_options, clock);
    return *ring_;
  }

  Engine& engine() {
    if (!engine_) {
      engine_.emplace(ring(), EngineOptions{ring_options.n_ctx, max_tokens_of_step}, clock);
    }
    return *engine_;
  }

  Batcher& batcher() {
    if (!batcher_) batcher_.emplace(engine(), tokenizer, BatcherOptions{}, clock);
    return *batcher_;
  }

  Result<Answer> run(const Request& request, const std::function<bool()>& cancelled = {}) {
    return generate(batcher(), text::Sampler::create(tokenizer, sampler_options).value(), request,
                    clock, cancelled);
  }

  static std::vector<Token> ids(const Answer& answer) {
    std::vector<Token> tokens;
    for (const AnswerToken& token : answer.tokens) tokens.push_back(token.token);
    return tokens;
  }

  text::TestVocabulary vocabulary;
  text::Tokenizer tokenizer = text::Tokenizer::load(vocabulary.path()).value();
  ManualClock clock;
  FakeRing::Options ring_options;
  std::uint32_t max_tokens_of_step = 8;
  text::SamplerOptions sampler_options;

 private:
  std::optional<FakeRing> ring_;
  std::optional<Engine> engine_;
  std::optional<Batcher> batcher_;
};

TEST_F(GeneratorTest, WritesUntilMaxTokens) {
  std::string shown;
  const Answer answer = run({.prompt = letters("hello"),
                             .max_tokens = 5,
                             .on_text = [&](std::string_view text, auto) { shown += text; }})
                            .value();
  EXPECT_EQ(answer.finish, FinishReason::max_tokens);
  EXPECT_EQ(answer.tokens.size(), 5u);
  EXPECT_EQ(answer.text.size(), 5u);
  EXPECT_EQ(shown, answer.text);
  EXPECT_EQ(answer.text, tokenizer.detokenize(ids(answer)));
  // The last token sampled has not been computed.
  EXPECT_EQ(ring().history(0).size(), 5u + 4u);
}

TEST_F(GeneratorTest, HowThePromptIsCutDoesNotMatter) {
  std::string expected;
  for (const std::uint32_t n : {1u, 3u, 8u, 32u}) {
    for (const std::uint32_t in_flight : {1u, 2u, 5u}) {
      max_tokens_of_step = n;
      ring_options.max_steps_in_flight = in_flight;
      FakeRing own_ring(ring_options, clock);
      Engine own_engine(own_ring, {ring_options.n_ctx, n}, clock);
      Batcher own_batcher(own_engine, tokenizer, {}, clock);
      const Answer answer =
          generate(own_batcher, text::Sampler::create(tokenizer, sampler_options).value(),
                   {.prompt = letters("abcdefghijklmnopq"), .max_tokens = 6}, clock)
              .value();
      if (expected.empty()) expected = answer.text;
      EXPECT_EQ(answer.text, expected);
      const std::size_t n_steps = (17 + n - 1) / n;
      EXPECT_EQ(own_ring.most_in_flight, std::min<std::size_t>(in_flight, n_steps));
      for (const compute::Step& step : own_ring.steps) EXPECT_LE(step.n_tokens(), n);
    }
  }
}

TEST_F(GeneratorTest, OnlyTheLastTokenOfThePromptIsAskedForLogits) {
  ASSERT_TRUE(run({.prompt = letters("abcdefghij"), .max_tokens = 1}));
  ASSERT_EQ(ring().steps.size(), 2u);
  EXPECT_TRUE(ring().steps[0].outputs.empty());
  EXPECT_EQ(ring().steps[1].outputs, (std::vector<std::uint32_t>{1}));
}

TEST_F(GeneratorTest, EndsWhereTheModelEnds) {
  ring_options.next_token = [this](const std::vector<std::int32_t>& history) {
    return history.size() == 7 ? tokenizer.eos() : letter('x');
  };
  const Answer answer = run({.prompt = letters("hello")}).value();
  EXPECT_EQ(answer.finish, FinishReason::end);
  EXPECT_EQ(answer.text, "xx");
  EXPECT_EQ(answer.tokens.size(), 2u);
  EXPECT_EQ(answer.statistics.n_generated, 3u);

  const Answer on = run({.prompt = letters("hello"), .max_tokens = 4, .ignore_end = true}).value();
  EXPECT_EQ(on.finish, FinishReason::max_tokens);
  EXPECT_EQ(on.text, "xxx");  // the end has no text
}

TEST_F(GeneratorTest, EndsAtAStopString) {
  ring_options.next_token = [this](const std::vector<std::int32_t>& history) {
    return letter("STOPPED"[(history.size() - 2) % 7]);
  };
  std::string shown;
  const Answer answer = run({.prompt = letters("hi"),
                             .stops = {"PP", "nothing"},
                             .on_text = [&](std::string_view text, auto) { shown += text; }})
                            .value();
  EXPECT_EQ(answer.finish, FinishReason::stop_string);
  EXPECT_EQ(answer.text, "STO");
  EXPECT_EQ(shown, "STO");
}

TEST_F(GeneratorTest, ShowsWholeCharacters) {
  const std::vector<Token> bytes = {vocabulary.token("<0xC3>"), vocabulary.token("<0xA9>"),
                                    vocabulary.token("<0xE2>")};
  ring_options.next_token = [&](const std::vector<std::int32_t>& history) {
    return bytes[history.size() - 2];
  };
  std::vector<std::string> shown;
  const Answer answer =
      run({.prompt = letters("hi"),
           .max_tokens = 3,
           .on_text = [&](std::string_view text, auto) { shown.emplace_back(text); }})
          .value();
  EXPECT_THAT(shown, testing::ElementsAre("\xC3\xA9", "\xEF\xBF\xBD"));
  EXPECT_EQ(answer.text, "\xC3\xA9\xEF\xBF\xBD");
}

TEST_F(GeneratorTest, EndsWhenTheContextIsFull) {
  ring_options.n_ctx = 12;
  const Answer answer = run({.prompt = letters("hello")}).value();
  EXPECT_EQ(answer.finish, FinishReason::context_full);
  // One more than there are cells: the last token needs none.
  EXPECT_EQ(answer.tokens.size(), 12u - 5u + 1u);

  const auto exact = run({.prompt = letters("abcdefghijkl")}).value();
  EXPECT_EQ(exact.finish, FinishReason::context_full);
  EXPECT_EQ(exact.tokens.size(), 1u);

  const auto too_long = run({.prompt = letters("abcdefghijklm")});
  ASSERT_FALSE(too_long);
  EXPECT_EQ(too_long.error().code, ErrorCode::invalid_argument);
  EXPECT_NE(too_long.error().what.find("13"), std::string::npos);
  EXPECT_NE(too_long.error().what.find("12"), std::string::npos);
}

TEST_F(GeneratorTest, AnEmptyPromptIsRefused) {
  const auto answer = run({.prompt = {}});
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, ErrorCode::invalid_argument);
}

TEST_F(GeneratorTest, TheNextTurnComputesOnlyWhatIsNew) {
  const Answer first = run({.prompt = letters("hello"), .max_tokens = 3}).value();
  std::vector<Token> prompt = letters("hello");
  for (const Token token : ids(first)) prompt.push_back(token);
  for (const Token token : letters("and")) prompt.push_back(token);

  const Answer second = run({.prompt = prompt, .max_tokens = 3}).value();
  EXPECT_EQ(second.statistics.n_prompt, 11u);
  EXPECT_EQ(second.statistics.n_reused, 5u + 2u);
  EXPECT_EQ(first.statistics.n_reused, 0u);

  // As if nothing had been there.
  ASSERT_TRUE(batcher().forget());
  EXPECT_EQ(run({.prompt = prompt, .max_tokens = 3}).value().text, second.text);
}

TEST_F(GeneratorTest, DropsWhatThePromptDoesNotHave) {
  ASSERT_TRUE(run({.prompt = letters("hello, all"), .max_tokens = 5}));
  const Answer edited = run({.prompt = letters("hello, world"), .max_tokens = 3}).value();
  EXPECT_EQ(edited.statistics.n_reused, 7u);
  EXPECT_EQ(ring().cells_used(), 12u + 2u);

  // The same prompt again: its last token is computed again.
  const Answer again = run({.prompt = letters("hello, world"), .max_tokens = 3}).value();
  EXPECT_EQ(again.statistics.n_reused, 11u);
  EXPECT_EQ(again.text, edited.text);
}

TEST_F(GeneratorTest, CancelEndsTheAnswerAndKeepsTheConversation) {
  ring_options.step_time = 200ms;
  const auto cancelled_after = [&](Duration delay) {
    const Instant limit = clock.now() + delay;
    return [this, limit] { return clock.now() >= limit; };
  };
  const Answer answer = run({.prompt = letters("hello")}, cancelled_after(700ms)).value();
  EXPECT_EQ(answer.finish, FinishReason::cancelled);
  EXPECT_EQ(answer.tokens.size(), 3u);  // after 200, 400 and 600 ms
  EXPECT_EQ(ring().in_flight(), 0u);
  EXPECT_EQ(ring().resets, 0);
  EXPECT_TRUE(run({.prompt = letters("hello again"), .max_tokens = 2}));

  // During prefill: no text yet.
  max_tokens_of_step = 2;
  const Answer early = run({.prompt = letters("anotherprompt")}, cancelled_after(100ms)).value();
  EXPECT_EQ(early.finish, FinishReason::cancelled);
  EXPECT_EQ(early.text, "");
}

TEST_F(GeneratorTest, ACancelledRingThatIsTooSlowIsEmptied) {
  ring_options.step_time = 60s;
  const Answer answer =
      run({.prompt = letters("hello")}, [this] { return clock.now() >= Instant(1s); }).value();
  EXPECT_EQ(answer.finish, FinishReason::cancelled);
  EXPECT_LT(clock.now(), Instant(10s));
  EXPECT_EQ(ring().resets, 1);
  EXPECT_EQ(ring().cells_used(), 0u);
  EXPECT_TRUE(run({.prompt = letters("hello"), .max_tokens = 2}));
}

TEST_F(GeneratorTest, ALostDeviceIsReportedAndEverythingForgotten) {
  ring().fail_submit_at = 3;
  const auto answer = run({.prompt = letters("hello"), .max_tokens = 10});
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, ErrorCode::unavailable);
  EXPECT_NE(answer.error().what.find("tablet"), std::string::npos);
  EXPECT_EQ(ring().cells_used(), 0u);
  EXPECT_EQ(ring().resets, 1);
}

TEST_F(GeneratorTest, AStepThatTakesForeverEnds) {
  ring_options.step_time = 24h;
  Engine impatient(ring(), {.n_ctx = 64, .max_tokens = 8, .step_timeout = 60s}, clock);
  Batcher its_batcher(impatient, tokenizer, {}, clock);
  const auto answer =
      generate(its_batcher, text::Sampler::create(tokenizer, sampler_options).value(),
               {.prompt = letters("hello")}, clock);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, ErrorCode::deadline_exceeded);
}

TEST_F(GeneratorTest, AGrammarThatEndsNowhereIsReportedAndNothingForgotten) {
  sampler_options.grammar.gbnf = "root ::= \"\\u0000\"";
  const auto answer = run({.prompt = letters("hello")});
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(ring().cells_used(), 5u);
  EXPECT_EQ(ring().resets, 0);
}

TEST_F(GeneratorTest, StatisticsAreMeasured) {
  ring_options.step_time = 100ms;
  const Answer answer = run({.prompt = letters("abcdefghij"), .max_tokens = 5}).value();
  const Statistics& statistics = answer.statistics;
  EXPECT_EQ(statistics.time_to_first_token, 200ms);  // two steps, one after the other
  EXPECT_EQ(statistics.decoding, 400ms);
  EXPECT_EQ(statistics.time_per_output_token(), 100ms);
  EXPECT_DOUBLE_EQ(statistics.prefill_tokens_per_second(), 50.0);
  EXPECT_DOUBLE_EQ(statistics.decode_tokens_per_second(), 10.0);
}

TEST(Statistics, AreZeroWhereNothingWasMeasured) {
  const Statistics none;
  EXPECT_EQ(none.time_per_output_token(), Duration{});
  EXPECT_EQ(none.prefill_tokens_per_second(), 0.0);
  EXPECT_EQ(none.decode_tokens_per_second(), 0.0);
}

}  // namespace
}  // namespace prima::generate

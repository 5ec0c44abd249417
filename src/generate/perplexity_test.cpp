#include "generate/perplexity.h"

#include <cmath>

#include <gtest/gtest.h>

#include "generate/fake_ring.h"
#include "text/test_vocabulary.h"

namespace prima::generate {
namespace {

using text::Token;

// The toy model gives its favourite the logit 10 and all others 0.
class PerplexityTest : public testing::Test {
 protected:
  PerplexityTest() {
    ring_options.n_vocab = static_cast<std::uint32_t>(tokenizer.n_vocab());
    ring_options.next_token = [](const std::vector<std::int32_t>& history) {
      return 20 + (history.back() + 1) % 10;
    };
    const double others = tokenizer.n_vocab() - 1;
    nll_of_favourite = std::log(std::exp(10.0) + others) - 10.0;
    nll_of_others = std::log(std::exp(10.0) + others);
  }

  // 20, 21, ... 29, 20, ...: every token is the model's favourite.
  static std::vector<Token> counting(std::size_t n) {
    std::vector<Token> tokens;
    for (std::size_t i = 0; i < n; ++i) tokens.push_back(20 + static_cast<Token>(i % 10));
    return tokens;
  }

  Result<Perplexity> measure(const std::vector<Token>& tokens, std::uint32_t n_ctx,
                             std::uint32_t max_tokens) {
    FakeRing ring(ring_options, clock);
    Engine engine(ring, {ring_options.n_ctx, max_tokens}, clock);
    return measure_perplexity(engine, tokenizer, tokens, n_ctx, {}, {});
  }

  text::TestVocabulary vocabulary;
  text::Tokenizer tokenizer = text::Tokenizer::load(vocabulary.path()).value();
  ManualClock clock;
  FakeRing::Options ring_options;
  double nll_of_favourite = 0.0;
  double nll_of_others = 0.0;
};

TEST_F(PerplexityTest, ScoresTheSecondHalfOfEachChunk) {
  for (const std::uint32_t max_tokens : {3u, 8u, 16u}) {
    const auto result = measure(counting(50), 16, max_tokens).value();
    EXPECT_EQ(result.n_chunks, 3u);       // 2 tokens are left over
    EXPECT_EQ(result.n_scored, 3u * 7u);  // llama-perplexity: n_ctx - n_ctx/2 - 1
    EXPECT_NEAR(result.value(), std::exp(nll_of_favourite), 1e-6);
    EXPECT_NEAR(result.standard_error(), 0.0, 1e-6);
  }
}

TEST_F(PerplexityTest, WhatTheModelDidNotExpectRaisesIt) {
  auto tokens = counting(16);
  tokens[12] = 100;  // scored, and it is no favourite's predecessor: two surprises
  const auto result = measure(tokens, 16, 16).value();
  const double expected = (5 * nll_of_favourite + 2 * nll_of_others) / 7;
  EXPECT_NEAR(result.value(), std::exp(expected), 1e-3);
  EXPECT_GT(result.standard_error(), 1.0);

  tokens = counting(16);
  tokens[3] = 100;  // in the first half
  EXPECT_NEAR(measure(tokens, 16, 16).value().value(), std::exp(nll_of_favourite), 1e-6);
}

TEST_F(PerplexityTest, EachChunkBeginsWithBosAndNothingElse) {
  std::vector<std::vector<std::int32_t>> histories;
  ring_options.next_token = [&](const std::vector<std::int32_t>& history) {
    histories.push_back(history);
    return 20;
  };
  ASSERT_TRUE(measure(counting(32), 16, 16));
  for (const auto& history : histories) {
    EXPECT_LE(history.size(), 16u);
    EXPECT_EQ(history.front(), tokenizer.bos());
  }
}

TEST_F(PerplexityTest, TextsThatAreTooShortAreRefused) {
  EXPECT_FALSE(measure(counting(15), 16, 16));
  EXPECT_FALSE(measure(counting(15), 2, 16));
}

TEST_F(PerplexityTest, CanBeCancelled) {
  FakeRing ring(ring_options, clock);
  Engine engine(ring, {ring_options.n_ctx, 16}, clock);
  const auto result =
      measure_perplexity(engine, tokenizer, counting(64), 16, {}, [] { return true; });
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::cancelled);
}

}  // namespace
}  // namespace prima::generate

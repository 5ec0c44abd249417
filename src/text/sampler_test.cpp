#include "text/sampler.h"

#include <cmath>
#include <map>
#include <random>

#include <gtest/gtest.h>

#include "text/test_vocabulary.h"

namespace prima::text {
namespace {

class SamplerTest : public testing::Test {
 protected:
  Sampler make(const SamplerOptions& options) {
    return Sampler::create(tokenizer, options).value();
  }

  Token token(const std::string& text) const { return vocabulary.token(text); }

  // Noise, the same for the same seed.
  std::vector<float> noise(unsigned seed) const {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0f, 3.0f);
    std::vector<float> logits(static_cast<std::size_t>(tokenizer.n_vocab()));
    for (float& logit : logits) logit = normal(random);
    return logits;
  }

  // Samples an answer from noise until it ends, at most `n` tokens.
  std::string write(Sampler& sampler, int n) {
    std::string text;
    for (int i = 0; i < n; ++i) {
      const Token next = sampler.sample(noise(static_cast<unsigned>(i))).value();
      EXPECT_TRUE(sampler.accept(next));
      if (tokenizer.is_end_of_generation(next)) break;
      text += tokenizer.piece(next);
    }
    return text;
  }

  TestVocabulary vocabulary;
  Tokenizer tokenizer = Tokenizer::load(vocabulary.path()).value();
};

TEST_F(SamplerTest, TemperatureZeroTakesTheLikeliest) {
  Sampler sampler = make({.temperature = 0});
  auto logits = noise(1);
  logits[42] = 100;
  EXPECT_EQ(sampler.sample(logits).value(), 42);
  Sampler biased = make({.temperature = 0, .logit_bias = {{42, -INFINITY}, {43, 99}}});
  EXPECT_EQ(biased.sample(logits).value(), 43);
}

TEST_F(SamplerTest, TheSeedDecides) {
  const auto tokens = [&](std::uint32_t seed) {
    Sampler sampler = make({.temperature = 1.5f, .top_k = 0, .top_p = 1, .min_p = 0, .seed = seed});
    std::vector<Token> result;
    for (unsigned i = 0; i < 20; ++i) {
      result.push_back(sampler.sample(noise(i)).value());
      EXPECT_TRUE(sampler.accept(result.back()));
    }
    return result;
  };
  EXPECT_EQ(tokens(5), tokens(5));
  EXPECT_NE(tokens(5), tokens(6));
  EXPECT_EQ(tokens(0xFFFFFFFF), tokens(0xFFFFFFFF));  // llama.cpp's mark for a random seed
}

TEST_F(SamplerTest, SamplesTheSoftmax) {
  Sampler sampler = make({.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 3});
  std::vector<float> logits(static_cast<std::size_t>(tokenizer.n_vocab()), -INFINITY);
  logits[10] = std::log(0.5f);
  logits[11] = std::log(0.3f);
  logits[12] = std::log(0.2f);
  constexpr int kDraws = 20000;
  std::map<Token, int> counts;
  for (int i = 0; i < kDraws; ++i) ++counts[sampler.sample(logits).value()];
  EXPECT_NEAR(counts[10] / double(kDraws), 0.5, 0.02);
  EXPECT_NEAR(counts[11] / double(kDraws), 0.3, 0.02);
  EXPECT_NEAR(counts[12] / double(kDraws), 0.2, 0.02);
}

TEST_F(SamplerTest, TruncationKeepsTheLikeliest) {
  auto logits = noise(1);
  logits[42] = 30;
  logits[43] = 29.9f;
  for (const SamplerOptions& options :
       {SamplerOptions{.temperature = 5, .top_k = 2, .top_p = 1, .min_p = 0},
        SamplerOptions{.temperature = 5, .top_k = 0, .top_p = 0.9f, .min_p = 0},
        SamplerOptions{.temperature = 5, .top_k = 0, .top_p = 1, .min_p = 0.5f}}) {
    Sampler sampler = make(options);
    for (int i = 0; i < 200; ++i) {
      const Token sampled = sampler.sample(logits).value();
      EXPECT_TRUE(sampled == 42 || sampled == 43) << sampled;
    }
  }
}

TEST_F(SamplerTest, PenaltiesSeePromptAndAnswer) {
  auto logits = noise(1);
  logits[42] = 30;
  logits[43] = 29;
  Sampler sampler = make({.temperature = 0, .presence_penalty = 5});
  EXPECT_EQ(sampler.sample(logits).value(), 42);
  sampler.accept_prompt(std::vector<Token>{42});
  EXPECT_EQ(sampler.sample(logits).value(), 43);
  ASSERT_TRUE(sampler.accept(43));
  EXPECT_EQ(sampler.sample(logits).value(), 42);  // both penalized: as at first
}

TEST_F(SamplerTest, ACloneGoesOnFromTheSameState) {
  Sampler sampler = make({.temperature = 2,
                          .top_k = 0,
                          .top_p = 1,
                          .min_p = 0,
                          .repeat_penalty = 1.3f,
                          .seed = 9,
                          .grammar = {.gbnf = "root ::= [a-z]+"}});
  write(sampler, 5);
  Sampler clone = sampler.clone();
  EXPECT_EQ(write(sampler, 10), write(clone, 10));
}

TEST_F(SamplerTest, AGrammarIsObeyed) {
  for (const float temperature : {0.0f, 1.0f}) {
    Sampler sampler =
        make({.temperature = temperature, .grammar = {.gbnf = R"(root ::= "hello" [0-9] "!")"}});
    const std::string text = write(sampler, 20);
    ASSERT_EQ(text.size(), 7u) << text;
    EXPECT_EQ(text.substr(0, 5), "hello");
    EXPECT_TRUE(std::isdigit(static_cast<unsigned char>(text[5])));
    EXPECT_EQ(text.back(), '!');
  }
}

TEST_F(SamplerTest, AJsonSchemaBecomesAGrammar) {
  const auto grammar = grammar_of_json_schema(R"({"enum": ["red", "green"]})").value();
  Sampler sampler = make({.temperature = 0, .grammar = {.gbnf = grammar}});
  const std::string text = write(sampler, 40);
  EXPECT_TRUE(text.starts_with("\"red\"") || text.starts_with("\"green\"")) << text;
}

TEST_F(SamplerTest, BadSchemasAreRefused) {
  for (const char* schema : {"{", R"({"type": "nonsense"})", R"({"$ref": "#/nowhere"})",
                             R"({"type": "string", "pattern": "^(a|b"})"}) {
    const auto grammar = grammar_of_json_schema(schema);
    ASSERT_FALSE(grammar) << schema;
    EXPECT_EQ(grammar.error().code, ErrorCode::invalid_argument);
  }
}

TEST_F(SamplerTest, BadGrammarsAreRefused) {
  for (const char* grammar :
       {"root ::= (", "root ::= nowhere", "other ::= \"a\"", "root ::= root \"a\" | \"b\""}) {
    const auto sampler = Sampler::create(tokenizer, {.grammar = {.gbnf = grammar}});
    ASSERT_FALSE(sampler) << grammar;
    EXPECT_EQ(sampler.error().code, ErrorCode::invalid_argument);
  }
}

#ifndef _WIN32
TEST_F(SamplerTest, SurvivesGrammarsMeantToDoHarm) {
  const std::string deep =
      "root ::= " + std::string(100000, '(') + "\"a\"" + std::string(100000, ')');
  const auto grammar = Sampler::create(tokenizer, {.grammar = {.gbnf = deep}});
  ASSERT_FALSE(grammar);
  EXPECT_EQ(grammar.error().code, ErrorCode::invalid_argument);

  std::string schema = "1";
  for (int i = 0; i < 100000; ++i) schema = R"({"items":)" + std::move(schema) + "}";
  const auto converted = grammar_of_json_schema(schema);
  ASSERT_FALSE(converted);
  EXPECT_EQ(converted.error().code, ErrorCode::invalid_argument);
}

TEST_F(SamplerTest, TemperaturesTooSmallToDivideByAreRefused) {
  EXPECT_FALSE(Sampler::create(tokenizer, {.temperature = 1e-38f}));
  EXPECT_TRUE(Sampler::create(tokenizer, {.temperature = 1e-3f}));
}
#endif

TEST_F(SamplerTest, TokensThatTheGrammarForbidsAreNotAccepted) {
  Sampler sampler = make({.grammar = {.gbnf = "root ::= \"a\" \"b\""}});
  EXPECT_FALSE(sampler.accept(token("b")));
  EXPECT_FALSE(sampler.accept(tokenizer.eos()));  // llama.cpp would abort
  EXPECT_TRUE(sampler.accept(token("a")));
  EXPECT_TRUE(sampler.accept(token("b")));
  EXPECT_TRUE(sampler.accept(tokenizer.eos()));
  EXPECT_FALSE(sampler.accept(tokenizer.n_vocab()));
}

TEST_F(SamplerTest, ValuesOutOfRangeAreRefused) {
  for (const SamplerOptions& options :
       {SamplerOptions{.temperature = -1}, SamplerOptions{.temperature = NAN},
        SamplerOptions{.top_k = -1}, SamplerOptions{.top_p = 1.5f}, SamplerOptions{.min_p = -0.1f},
        SamplerOptions{.repeat_penalty = 0}, SamplerOptions{.frequency_penalty = INFINITY},
        SamplerOptions{.penalized_tokens = -1},
        SamplerOptions{.logit_bias = {{tokenizer.n_vocab(), 1.0f}}}}) {
    const auto sampler = Sampler::create(tokenizer, options);
    ASSERT_FALSE(sampler);
    EXPECT_EQ(sampler.error().code, ErrorCode::invalid_argument);
    EXPECT_FALSE(sampler.error().remedy.empty());
  }
}

TEST_F(SamplerTest, LogitsThatAreNoNumbersAreReported) {
  Sampler sampler = make({});
  auto logits = noise(1);
  logits[3] = NAN;
  EXPECT_FALSE(sampler.sample(logits));
  logits.assign(logits.size(), -INFINITY);
  EXPECT_FALSE(sampler.sample(logits));
  logits.pop_back();
  EXPECT_FALSE(sampler.sample(logits));
}

}  // namespace
}  // namespace prima::text

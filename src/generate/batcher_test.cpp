#include "generate/batcher.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/test_logits.h"
#include "generate/fake_ring.h"
#include "generate/generator.h"
#include "model/model_file.h"
#include "model/synth.h"
#include "text/test_vocabulary.h"

namespace prima::generate {
namespace {

using text::Token;
using namespace std::chrono_literals;

// The letter that comes `i` after `first`, n times.
std::string nth_letters(int n, char first, int i) {
  return std::string(static_cast<std::size_t>(n), static_cast<char>(first + i));
}

class BatcherTest : public testing::Test {
 protected:
  BatcherTest() {
    ring_options.n_vocab = static_cast<std::uint32_t>(tokenizer.n_vocab());
    ring_options.n_ctx = 512;
    ring_options.next_token = [this](const std::vector<std::int32_t>& history) {
      std::size_t sum = history.size();
      for (const std::int32_t token : history) sum += 7 * static_cast<std::size_t>(token);
      return letter(static_cast<char>('a' + sum % 26));
    };
  }

  Token letter(char c) const { return vocabulary.token(std::string(1, c)); }

  std::vector<Token> letters(const std::string& text) const {
    std::vector<Token> tokens;
    for (const char c : text) tokens.push_back(letter(c));
    return tokens;
  }

  text::Sampler greedy() const {
    return text::Sampler::create(tokenizer, {.temperature = 0}).value();
  }

  // Everything that one ring needs, for one test or one comparison.
  struct World {
    World(const BatcherTest& test, BatcherOptions options)
        : ring(test.ring_options, clock),
          engine(ring, {test.ring_options.n_ctx, test.max_tokens_of_step}, clock),
          batcher(engine, test.tokenizer, options, clock) {}

    ManualClock clock;
    FakeRing ring;
    Engine engine;
    Batcher batcher;
    std::map<int, Result<Answer>> answers;
    std::map<int, Instant> ended;
  };

  Batcher::Id add(World& world, int name, const std::string& prompt, std::uint32_t max_tokens) {
    return world.batcher
        .add({.prompt = letters(prompt), .max_tokens = max_tokens}, greedy(),
             [&world, name](Result<Answer> answer) {
               EXPECT_FALSE(world.answers.contains(name)) << "done is called once";
               world.answers.emplace(name, std::move(answer));
               world.ended[name] = world.clock.now();
             })
        .value();
  }

  static void finish(World& world) {
    for (int i = 0; i < 100000 && !world.batcher.idle(); ++i) ASSERT_TRUE(world.batcher.work());
    ASSERT_TRUE(world.batcher.idle());
  }

  std::string alone(const std::string& prompt, std::uint32_t max_tokens) {
    World world(*this, {});
    add(world, 0, prompt, max_tokens);
    finish(world);
    return world.answers.at(0).value().text;
  }

  text::TestVocabulary vocabulary;
  text::Tokenizer tokenizer = text::Tokenizer::load(vocabulary.path()).value();
  FakeRing::Options ring_options;
  std::uint32_t max_tokens_of_step = 64;
};

TEST_F(BatcherTest, SeveralAnswersShareStepsAndAreWhatEachIsAlone) {
  World world(*this, {});
  const std::vector<std::string> prompts = {"one", "another", "a third prompt", "x"};
  for (int i = 0; i < 4; ++i) add(world, i, prompts[static_cast<std::size_t>(i)], 10);
  finish(world);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(world.answers.at(i).value().text, alone(prompts[static_cast<std::size_t>(i)], 10));
  }
  // One step for all prompts, then one for each token of all.
  EXPECT_EQ(world.ring.steps.size(), 10u);
  EXPECT_EQ(world.ring.steps.back().n_tokens(), 4u);
}

TEST_F(BatcherTest, NewRequestsJoinBetweenSteps) {
  World world(*this, {});
  add(world, 0, "first", 50);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(world.batcher.work());
  add(world, 1, "second", 5);
  finish(world);
  EXPECT_LT(world.ended[1], world.ended[0]);
  EXPECT_EQ(world.answers.at(1).value().text, alone("second", 5));
}

TEST_F(BatcherTest, PiecesOfALongPromptDoNotStallThoseWhoDecode) {
  ring_options.token_time = 1ms;
  max_tokens_of_step = 256;
  World world(*this, {});
  add(world, 0, "first", 200);
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(world.batcher.work());
  add(world, 1, std::string(250, 'p'), 1);
  Duration longest{};
  Instant last = world.clock.now();
  std::uint64_t n_before = world.batcher.statistics().generated_tokens;
  while (!world.batcher.idle()) {
    ASSERT_TRUE(world.batcher.work());
    const std::uint64_t n = world.batcher.statistics().generated_tokens;
    if (n > n_before) longest = std::max(longest, world.clock.now() - last);
    if (n > n_before) last = world.clock.now();
    n_before = n;
  }
  // A step of one token takes 11 ms, the whole prompt at once would take 260 ms.
  EXPECT_LE(longest, 35ms);
  EXPECT_EQ(world.answers.at(1).value().text, alone(std::string(250, 'p'), 1));
}

TEST_F(BatcherTest, GroupsOfAnswersAreInFlightAtOnce) {
  ring_options.max_steps_in_flight = 8;
  World world(*this, {.decode_groups = 3});
  for (int i = 0; i < 6; ++i) add(world, i, "prompt" + std::to_string(i), 20);
  finish(world);
  EXPECT_EQ(world.ring.most_in_flight, 3u);
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(world.answers.at(i).value().text, alone("prompt" + std::to_string(i), 20));
  }
  // Six answers in three groups: steps of two, apart from the prompts' and the last ones.
  const auto twos = std::ranges::count_if(world.ring.steps,
                                          [](const auto& step) { return step.n_tokens() == 2; });
  EXPECT_GT(twos, 40);
}

TEST_F(BatcherTest, TurnsAreFair) {
  ring_options.max_steps_in_flight = 4;
  ring_options.n_ctx = 1024;
  World world(*this, {.max_running = 8, .decode_groups = 3});
  for (int i = 0; i < 8; ++i) add(world, i, nth_letters(40, 'a', i), 50);
  finish(world);
  const auto [first, last] =
      std::ranges::minmax_element(world.ended, {}, [](const auto& entry) { return entry.second; });
  EXPECT_LE(last->second.time_since_epoch() * 4, first->second.time_since_epoch() * 5);
}

TEST_F(BatcherTest, TheNextTurnComputesOnlyWhatIsNewBesideOthers) {
  World world(*this, {});
  add(world, 0, "a conversation about one thing", 8);
  add(world, 1, "and one about another", 8);
  finish(world);
  const std::string next =
      "a conversation about one thing" + world.answers.at(0).value().text + " and more";
  add(world, 2, next, 4);
  finish(world);
  const Answer& answer = world.answers.at(2).value();
  EXPECT_EQ(answer.statistics.n_reused, 30u + 7u);
  EXPECT_EQ(answer.text, alone(next, 4));
}

TEST_F(BatcherTest, ASharedSystemPromptIsComputedOnce) {
  const std::string system(100, 's');
  World world(*this, {});
  for (int i = 0; i < 4; ++i) add(world, i, system + nth_letters(3, 'a', i), 5);
  finish(world);
  std::size_t computed = 0;
  for (const compute::Step& step : world.ring.steps) computed += step.n_tokens();
  EXPECT_EQ(computed, 100u + 4 * (3 + 4));
  EXPECT_EQ(world.ring.cells_used(), computed);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(world.answers.at(i).value().text, alone(system + nth_letters(3, 'a', i), 5));
    EXPECT_EQ(world.answers.at(i).value().statistics.n_reused, i == 0 ? 0u : 100u);
  }
}

TEST_F(BatcherTest, WhatDoesNotFitWaitsAndWhatNeverFitsIsRefusedWithTheFigures) {
  ring_options.n_ctx = 100;
  World world(*this, {.max_queued = 2});
  const auto refused = world.batcher.add({.prompt = letters(std::string(101, 'x'))}, greedy(),
                                         [](Result<Answer>) { ADD_FAILURE(); });
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
  EXPECT_THAT(refused.error().what, testing::HasSubstr("101"));
  EXPECT_THAT(refused.error().what, testing::HasSubstr("100"));

  add(world, 0, std::string(60, 'a'), 30);
  ASSERT_TRUE(world.batcher.work());
  add(world, 1, std::string(60, 'b'), 30);
  add(world, 2, std::string(60, 'c'), 30);
  const auto full = world.batcher.add({.prompt = letters("d")}, greedy(), [](Result<Answer>) {});
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, ErrorCode::resource_exhausted);
  EXPECT_EQ(world.batcher.statistics().running, 1u);
  finish(world);
  EXPECT_EQ(world.batcher.statistics().preemptions, 0u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(world.answers.at(i).value().text, alone(nth_letters(60, 'a', i), 30));
  }
}

TEST_F(BatcherTest, WhereCellsRunOutTheYoungestGivesItsOwnUpAndGoesOnLater) {
  ring_options.n_ctx = 128;
  World world(*this, {});
  // Each is promised 32 cells for its answer, and takes 80.
  for (int i = 0; i < 3; ++i) add(world, i, nth_letters(10, 'a', i), 80);
  finish(world);
  EXPECT_GT(world.batcher.statistics().preemptions, 0u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(world.answers.at(i).value().text, alone(nth_letters(10, 'a', i), 80));
  }
  EXPECT_LT(world.ended[0], world.ended[2]);
}

TEST_F(BatcherTest, EmbeddingsArePooledOverPiecesAndLeaveAnswersAsTheyAre) {
  max_tokens_of_step = 16;  // the text takes several steps
  World world(*this, {});
  const std::string text(50, 'e');
  const std::vector<Token> tokens = letters(text + "nd");
  std::map<model::Pooling, std::vector<float>> embeddings;
  const auto embed = [&](model::Pooling pooling) {
    return world.batcher
        .add({.prompt = tokens, .max_tokens = 1, .embedding = pooling}, greedy(),
             [&embeddings, pooling](Result<Answer> answer) {
               EXPECT_TRUE(answer.value().tokens.empty());
               if (answer.value().finish == FinishReason::cancelled) return;
               EXPECT_EQ(answer.value().finish, FinishReason::end);
               embeddings[pooling] = answer.value().embedding;
             })
        .value();
  };
  add(world, 0, "an answer", 12);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(world.batcher.work());
  embed(model::Pooling::mean);
  embed(model::Pooling::first);
  embed(model::Pooling::last);
  world.batcher.cancel(embed(model::Pooling::mean));
  add(world, 1, text, 12);  // begins as they do
  finish(world);

  EXPECT_EQ(world.answers.at(0).value().text, alone("an answer", 12));
  EXPECT_EQ(world.answers.at(1).value().text, alone(text, 12));
  std::array<float, 3> mean{};
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto state = FakeRing::state_of(tokens[i], static_cast<std::int32_t>(i));
    for (std::size_t j = 0; j < mean.size(); ++j) mean[j] += state[j];  // its direction
  }
  const auto expect = [&](model::Pooling pooling, std::array<float, 3> state) {
    const float length = std::sqrt(state[0] * state[0] + state[1] * state[1] + state[2] * state[2]);
    ASSERT_EQ(embeddings[pooling].size(), state.size());
    for (std::size_t i = 0; i < state.size(); ++i) {
      EXPECT_NEAR(embeddings[pooling][i], state[i] / length, 1e-5) << i;
    }
  };
  expect(model::Pooling::mean, mean);
  expect(model::Pooling::first, FakeRing::state_of(tokens.front(), 0));
  expect(model::Pooling::last,
         FakeRing::state_of(tokens.back(), static_cast<std::int32_t>(tokens.size() - 1)));
}

TEST_F(BatcherTest, ACancelledAnswerIsToldAndItsCellsServeOthers) {
  ring_options.n_ctx = 64;
  ring_options.max_steps_in_flight = 4;
  World world(*this, {.decode_groups = 2});
  const Batcher::Id id = add(world, 0, "hello", 0);
  add(world, 1, "other", 20);
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(world.batcher.work());
  world.batcher.cancel(id);
  ASSERT_TRUE(world.answers.contains(0));
  const Answer& answer = world.answers.at(0).value();
  EXPECT_EQ(answer.finish, FinishReason::cancelled);
  EXPECT_EQ(answer.text, alone("hello", static_cast<std::uint32_t>(answer.tokens.size())));
  world.batcher.cancel(id);  // nothing happens twice
  finish(world);
  EXPECT_EQ(world.answers.at(1).value().text, alone("other", 20));
  add(world, 2, std::string(60, 'z'), 4);
  finish(world);
  EXPECT_EQ(world.answers.at(2).value().text, alone(std::string(60, 'z'), 4));
  EXPECT_EQ(world.batcher.steps_in_flight(), 0u);
}

TEST_F(BatcherTest, ManyRequestsSomeOfThemLeavingLeakNothing) {
  ring_options.n_ctx = 300;
  ring_options.max_steps_in_flight = 6;
  World world(*this, {.max_running = 6, .decode_groups = 3});
  std::vector<Batcher::Id> ids;
  unsigned random = 1;
  const auto next = [&random](unsigned below) {
    random = random * 1664525 + 1013904223;
    return (random >> 8) % below;
  };
  int n = 0;
  for (int round = 0; round < 3000; ++round) {
    if (world.batcher.statistics().queued < 10) {
      ids.push_back(add(world, n++, std::string(1 + next(60), static_cast<char>('a' + next(5))),
                        1 + next(20)));
    }
    if (next(3) == 0) world.batcher.cancel(ids[next(static_cast<unsigned>(ids.size()))]);
    ASSERT_TRUE(world.batcher.work());
  }
  finish(world);
  EXPECT_EQ(world.answers.size(), static_cast<std::size_t>(n));
  for (const auto& [name, answer] : world.answers) EXPECT_TRUE(answer) << name;
  while (world.batcher.steps_in_flight() > 0) ASSERT_TRUE(world.batcher.work());
  add(world, -1, std::string(299, 'q'), 1);  // every cell can be had again
  finish(world);
  EXPECT_TRUE(world.answers.at(-1));
}

TEST_F(BatcherTest, ALostRingEndsAllAndServesAgainOnceForgotten) {
  World world(*this, {});
  world.ring.fail_submit_at = 3;
  for (int i = 0; i < 3; ++i) add(world, i, "hello", 10);
  Status status;
  while (status) status = world.batcher.work();
  EXPECT_EQ(status.error().code, ErrorCode::unavailable);
  ASSERT_EQ(world.answers.size(), 3u);
  for (const auto& [name, answer] : world.answers) {
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().code, ErrorCode::unavailable);
  }
  world.ring.fail_submit_at.reset();
  ASSERT_TRUE(world.batcher.forget());
  add(world, 3, "hello", 10);
  finish(world);
  EXPECT_EQ(world.answers.at(3).value().text, alone("hello", 10));
}

TEST_F(BatcherTest, ProbabilitiesAreTheModels) {
  World world(*this, {});
  std::vector<AnswerToken> heard;
  Request request{.prompt = letters("hello"), .max_tokens = 3, .top_probabilities = 2};
  request.on_text = [&](std::string_view, std::span<const AnswerToken> tokens) {
    heard.insert(heard.end(), tokens.begin(), tokens.end());
  };
  ASSERT_TRUE(world.batcher.add(std::move(request), greedy(), [](Result<Answer>) {}));
  finish(world);
  ASSERT_EQ(heard.size(), 3u);
  // The favourite has the logit 10, all others 0.
  const double sum = std::exp(10.0) + ring_options.n_vocab - 1;
  EXPECT_NEAR(heard[0].log_probability, 10.0 - std::log(sum), 1e-4);
  ASSERT_EQ(heard[0].likeliest.size(), 2u);
  EXPECT_EQ(heard[0].likeliest[0].token, heard[0].token);
  EXPECT_NEAR(heard[0].likeliest[1].log_probability, -std::log(sum), 1e-4);
}

// ---- On a real model ---------------------------------------------------------------------------

// Remembers the logits of every token of every sequence that were wanted.
class RecordingRing final : public ring::Ring {
 public:
  using Key = std::vector<std::int32_t>;  // the tokens before and with it

  RecordingRing(ring::Ring& ring, std::uint32_t n_vocab) : ring_(ring), n_vocab_(n_vocab) {}

  Status submit(const compute::Step& step, std::span<const std::int32_t> tokens,
                Instant deadline) override {
    apply_operations(step, histories_);
    std::size_t output = 0;
    for (std::uint32_t i = 0; i < step.n_tokens(); ++i) {
      auto& history = histories_[step.sequences[i]];
      history.push_back(tokens[i]);
      if (output < step.outputs.size() && step.outputs[output] == i) {
        ++output;
        wanted_[step.id].push_back(history);
      }
    }
    return ring_.submit(step, tokens, deadline);
  }

  Result<Finished> next(Instant deadline) override {
    auto finished = ring_.next(deadline);
    if (!finished) return finished;
    const auto& keys = wanted_[finished->step_id];
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const auto row = std::span(finished->logits).subspan(i * n_vocab_, n_vocab_);
      logits[keys[i]].assign(row.begin(), row.end());
    }
    return finished;
  }

  std::size_t in_flight() const override { return ring_.in_flight(); }
  Status reset(Instant deadline) override { return ring_.reset(deadline); }
  ring::RingDescription describe() const override { return ring_.describe(); }

  std::map<Key, std::vector<float>> logits;

 private:
  ring::Ring& ring_;
  const std::size_t n_vocab_;
  Histories histories_;
  std::map<std::uint64_t, std::vector<Key>> wanted_;
};

class BatcherOnAModel : public testing::TestWithParam<const char*> {};

TEST_P(BatcherOnAModel, LogitsBesideOthersAreThoseOfARunAlone) {
  const auto path = std::filesystem::temp_directory_path() /
                    ("prima-batcher-" + std::to_string(::getpid()) + ".gguf");
  ASSERT_TRUE(model::synthesize(
      {.n_layer = 2, .n_embd = 256, .n_head = 4, .n_vocab = 400, .mixture = GetParam()}, path));
  const auto file = model::ModelFile::open(path).value();
  const auto tokenizer = text::Tokenizer::load(path).value();
  const std::shared_ptr<void> at_end(nullptr, [&](void*) { std::filesystem::remove(path); });
  const SystemClock clock;
  constexpr std::uint32_t kCells = 512;

  using Logits = std::map<RecordingRing::Key, std::vector<float>>;
  const auto answer = [&](const std::vector<std::vector<Token>>& prompts) {
    ring::RingOptions options;
    options.executor.n_ctx = kCells;
    options.executor.max_tokens = 64;
    options.executor.n_threads = 1;
    auto local = ring::form_ring(file, options).value();
    RecordingRing ring(*local, static_cast<std::uint32_t>(tokenizer.n_vocab()));
    Engine engine(ring, {kCells, 64}, clock);
    Batcher batcher(engine, tokenizer, {}, clock);
    std::vector<std::vector<Token>> answers(prompts.size());
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      auto sampler = text::Sampler::create(tokenizer, {.temperature = 0}).value();
      EXPECT_TRUE(batcher.add({.prompt = prompts[i], .max_tokens = 24, .ignore_end = true},
                              std::move(sampler), [&answers, i](Result<Answer> result) {
                                for (const AnswerToken& token : result.value().tokens) {
                                  answers[i].push_back(token.token);
                                }
                              }));
    }
    while (!batcher.idle()) EXPECT_TRUE(batcher.work());
    return std::pair(answers, Logits(std::move(ring.logits)));
  };

  std::vector<std::vector<Token>> prompts;
  for (int i = 0; i < 5; ++i) {
    prompts.emplace_back();
    for (int j = 0; j < 30 + 11 * i; ++j) prompts.back().push_back(260 + (17 * i + 5 * j) % 130);
    // The last two begin as the first.
    if (i >= 3) std::copy_n(prompts[0].begin(), 25, prompts.back().begin());
  }
  const auto [together, logits] = answer(prompts);

  // With steps of the same shape a user's logits are the same bit for bit, whatever the others say.
  auto changed = prompts;
  for (std::size_t i = 1; i < prompts.size(); ++i) {
    for (std::size_t j = i >= 3 ? 25 : 0; j < prompts[i].size(); ++j) {
      changed[i][j] = 260 + (prompts[i][j] - 260 + 61) % 130;
    }
  }
  const auto [beside_others, logits_beside_others] = answer(changed);
  EXPECT_EQ(beside_others[0], together[0]);
  int n_same = 0;
  for (std::size_t i = 0; i < together[0].size(); ++i) {
    RecordingRing::Key key = prompts[0];
    key.insert(key.end(), together[0].begin(),
               together[0].begin() + static_cast<std::ptrdiff_t>(i));
    n_same += logits.at(key) == logits_beside_others.at(key);
  }
  EXPECT_EQ(n_same, 24);
  if (std::string(GetParam()) != "F32") return;  // ones that round activations amplify each bit

  double sum = 0.0;
  int n = 0;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto [own, own_logits] = answer({prompts[i]});
    EXPECT_EQ(together[i], own[0]) << "prompt " << i;
    for (const auto& [key, row] : own_logits) {
      const auto beside = logits.find(key);
      if (beside == logits.end()) continue;  // after a token that parted
      sum += compute::relative_rms(beside->second, row);
      ++n;
    }
  }
  // ggml's attention adds up values in half precision, in the order of the cells: single rows of so
  // small a model part by up to 1.3e-3.
  ASSERT_GT(n, 50);
  EXPECT_LT(sum / n, 1e-3);
}

INSTANTIATE_TEST_SUITE_P(Types, BatcherOnAModel, testing::Values("F32", "Q8_0", "Q4_K"));

}  // namespace
}  // namespace prima::generate

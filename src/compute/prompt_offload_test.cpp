// Prompts on a GPU: the processor's layers, copied to a stand-in for one, must give the processor's
// logits, and leave its KV cache as the processor would have, for all that follows.
#include "compute/prompt_offload.h"

#include <map>
#include <numeric>
#include <optional>
#include <string>

#include <gtest/gtest.h>

#include "compute/executor.h"
#include "compute/gpu.h"
#include "compute/kv_cells.h"
#include "compute/test_logits.h"
#include "compute/test_rpc_server.h"
#include "model/synth.h"
#include "model/testing/temporary_folder.h"

namespace prima::compute {
namespace {

constexpr std::uint32_t kContext = 512;
constexpr std::uint32_t kMaxTokens = 64;
constexpr std::uint32_t kFrom = 32;

using Logits = std::vector<std::vector<float>>;

TEST(FasterFromTokens, IsWhereTheGpusLineCrossesTheProcessors) {
  // 1 ms a token against 50 ms of copying and 0.1 ms a token: equal at 55.6.
  const OffloadTimes times{.few_tokens = 32,
                           .many_tokens = 128,
                           .processor_few = 0.032,
                           .processor_many = 0.128,
                           .gpu_few = 0.0532,
                           .gpu_many = 0.0628};
  EXPECT_EQ(faster_from_tokens(times, 512), 56u);
  EXPECT_EQ(faster_from_tokens(times, 56), 56u);
  EXPECT_EQ(faster_from_tokens(times, 55), std::nullopt);
}

TEST(FasterFromTokens, IsTheFewestWhereTheGpuAlwaysWins) {
  EXPECT_EQ(faster_from_tokens({32, 128, 0.2, 0.8, 0.1, 0.1}, 512), 32u);
  EXPECT_EQ(faster_from_tokens({32, 32, 0.2, 0.2, 0.1, 0.1}, 512), 32u);
}

TEST(FasterFromTokens, IsNoneWhereItNeverWins) {
  EXPECT_EQ(faster_from_tokens({32, 128, 0.1, 0.4, 0.2, 0.6}, 512), std::nullopt);
  EXPECT_EQ(faster_from_tokens({32, 128, 0.1, 0.4, 0.2, 0.5}, 100000), std::nullopt);
  EXPECT_EQ(faster_from_tokens({32, 32, 0.1, 0.1, 0.2, 0.2}, 512), std::nullopt);
}

// Sequences on one executor, as the head places them.
class Sequences {
 public:
  Sequences(Executor& executor, std::uint32_t n_layer)
      : executor_(executor), n_layer_(n_layer), cells_(kContext) {}

  // One step; the logits of its last token go to `logits`.
  Status step(const std::vector<std::pair<std::int32_t, std::uint32_t>>& tokens_of_sequences,
              const std::vector<KvOperation>& operations = {}) {
    Step step;
    step.id = next_id_++;
    step.kv_operations = operations;
    for (const KvOperation& operation : operations) {
      std::int32_t& from = next_position_[operation.sequence];
      if (operation.kind == KvOperation::Kind::copy) {
        next_position_[operation.target] = operation.to;
      } else if (operation.to >= from) {
        from = operation.from;
      }
    }
    std::vector<std::int32_t> tokens;
    for (const auto& [sequence, count] : tokens_of_sequences) {
      for (std::uint32_t i = 0; i < count; ++i) {
        step.sequences.push_back(sequence);
        step.positions.push_back(next_position_[sequence]++);
        tokens.push_back(3 + static_cast<std::int32_t>((next_token_++ * 37) % 500));
      }
    }
    step.outputs = {step.n_tokens() - 1};
    PRIMA_RETURN_IF_ERROR(cells_.place(step));
    PRIMA_RETURN_IF_ERROR(cells_.apply(step));
    std::vector<float> hidden;
    PRIMA_RETURN_IF_ERROR(executor_.embed(tokens, hidden));
    PRIMA_RETURN_IF_ERROR(executor_.begin(step));
    PRIMA_RETURN_IF_ERROR(executor_.run({0, n_layer_}, step, hidden));
    return executor_.logits(hidden, logits.emplace_back());
  }

  Logits logits;

 private:
  Executor& executor_;
  std::uint32_t n_layer_;
  KvCells cells_;
  std::map<std::int32_t, std::int32_t> next_position_;
  std::uint32_t next_token_ = 0;
  std::uint64_t next_id_ = 1;
};

// Prompts and decoding in turn: a long prompt, a prefix used again by its own sequence and by
// another, cells in pieces, two sequences in one step.
Result<Logits> conversation(Executor& executor, std::uint32_t n_layer) {
  using Kind = KvOperation::Kind;
  Sequences sequences(executor, n_layer);
  PRIMA_RETURN_IF_ERROR(sequences.step({{0, 64}}));
  PRIMA_RETURN_IF_ERROR(sequences.step({{0, 36}}));
  for (int i = 0; i < 4; ++i) PRIMA_RETURN_IF_ERROR(sequences.step({{0, 1}}));
  PRIMA_RETURN_IF_ERROR(sequences.step({{0, 40}}, {{Kind::remove, 0, 0, 50, 200}}));
  PRIMA_RETURN_IF_ERROR(sequences.step({{1, 33}}, {{Kind::copy, 0, 1, 0, 50}}));
  PRIMA_RETURN_IF_ERROR(sequences.step({{1, 1}}));
  PRIMA_RETURN_IF_ERROR(sequences.step({{2, 40}}, {{Kind::remove, 0, 0, 60, 80}}));
  PRIMA_RETURN_IF_ERROR(sequences.step({{0, 1}, {2, 1}}));
  PRIMA_RETURN_IF_ERROR(sequences.step({{1, 20}, {2, 20}}));
  PRIMA_RETURN_IF_ERROR(sequences.step({{0, 1}, {1, 1}, {2, 1}}));
  PRIMA_RETURN_IF_ERROR(sequences.step({{2, 31}}));  // one too few to be offloaded
  PRIMA_RETURN_IF_ERROR(sequences.step({{2, 1}}));
  return std::move(sequences.logits);
}

double largest_distance(const Logits& actual, const Logits& expected) {
  EXPECT_EQ(actual.size(), expected.size());
  double largest = 0;
  for (std::size_t i = 0; i < std::min(actual.size(), expected.size()); ++i) {
    largest = std::max(largest, relative_rms(actual[i], expected[i]));
  }
  return largest;
}

[[maybe_unused]] auto* const g_stand_in = testing::AddGlobalTestEnvironment(new GpuStandIn);

class PromptOffloadTest : public testing::Test {
 protected:
  void make_model(const model::SynthOptions& options) {
    const auto path = folder_.path() / "model.gguf";
    const auto made = model::synthesize(options, path);
    ASSERT_TRUE(made) << made.error().message();
    auto opened = model::ModelFile::open(path);
    ASSERT_TRUE(opened) << opened.error().message();
    model_.emplace(std::move(*opened));
  }

  std::uint32_t n_layer() const { return model_->hyperparameters().n_layer; }

  ExecutorOptions cpu_only() const {
    // The server computes weights as they lie in the file; so must the CPU here, for the
    // comparison.
    return {.windows = {{0, n_layer()}},
            .n_ctx = kContext,
            .max_tokens = kMaxTokens,
            .n_threads = 1,
            .repack = false,
            .yields_memory = false};
  }

  ExecutorOptions offloaded() {
    ExecutorOptions options = cpu_only();
    options.offload_from_tokens = kFrom;
    options.on_computed = [this](const ComputedLayers& computed) {
      most_tokens_on_cpu_ = std::max(most_tokens_on_cpu_, computed.n_tokens);
    };
    return options;
  }

  std::unique_ptr<Executor> executor(const ExecutorOptions& options) const {
    auto made = Executor::create(*model_, options);
    EXPECT_TRUE(made) << made.error().message();
    return made ? std::move(*made) : nullptr;
  }

  Logits conversation_of(Executor& executor) const {
    auto logits = conversation(executor, n_layer());
    EXPECT_TRUE(logits) << logits.error().message();
    return logits ? *logits : Logits{};
  }

  Logits conversation_of(const ExecutorOptions& options) const {
    const auto made = executor(options);
    return made ? conversation_of(*made) : Logits{};
  }

  // The least memory with which the executor starts, from its own refusal.
  Bytes smallest_memory(ExecutorOptions options) const {
    options.memory = weights::MemoryBudget{.total = 1, .was_asked = true};
    const auto refused = Executor::create(*model_, options);
    EXPECT_FALSE(refused);
    const std::string& remedy = refused.error().remedy;
    return std::stoull(remedy.substr(remedy.find('(') + 1));
  }

  model::TemporaryFolder folder_;
  std::optional<model::ModelFile> model_;
  std::uint32_t most_tokens_on_cpu_ = 0;
};

struct Shape {
  const char* name;
  model::SynthOptions options;
  ggml_type kv_type = GGML_TYPE_F16;
};

class OffloadedShape : public PromptOffloadTest, public testing::WithParamInterface<Shape> {};

TEST_P(OffloadedShape, GivesTheProcessorsLogitsInMemoryAndStreamed) {
  make_model(GetParam().options);
  ExecutorOptions plain = cpu_only();
  plain.kv_type = GetParam().kv_type;
  const Logits expected = conversation_of(plain);
  ExecutorOptions options = offloaded();
  options.kv_type = GetParam().kv_type;
  const Bytes smallest = smallest_memory(options);
  for (const Bytes memory : {Bytes{0}, smallest, smallest + model_->layer_bytes(0), kGiB}) {
    SCOPED_TRACE(memory);
    most_tokens_on_cpu_ = 0;
    if (memory > 0) options.memory = weights::MemoryBudget{.total = memory, .was_asked = true};
    const auto on_gpu = executor(options);
    ASSERT_NE(on_gpu, nullptr);
    EXPECT_GT(on_gpu->memory().gpu, 0u);
    EXPECT_LT(largest_distance(conversation_of(*on_gpu), expected), 1e-3);
    EXPECT_EQ(most_tokens_on_cpu_, kFrom - 1);
  }
}

INSTANTIATE_TEST_SUITE_P(
    PromptOffload, OffloadedShape,
    testing::Values(
        Shape{"dense", {.n_layer = 5, .n_head_kv = 2}},
        Shape{"quantized_cache", {.n_layer = 3}, GGML_TYPE_Q8_0},
        Shape{"one_layer", {.n_layer = 1}},
        Shape{"rope_factors",
              {.n_layer = 3, .rope_scaling = model::SynthRopeScaling::llama3, .rope_factor = 8}},
        Shape{"windowed", {.architecture = "gemma3", .n_layer = 7, .n_swa = 32, .tied = true}},
        Shape{"biases", {.architecture = "qwen2", .n_layer = 3, .mixture = "Q8_0"}},
        Shape{"experts",
              {.architecture = "qwen3moe", .n_layer = 3, .n_expert = 4, .mixture = "Q4_0"}}),
    [](const testing::TestParamInfo<Shape>& shape) { return shape.param.name; });

TEST_F(PromptOffloadTest, EqualPromptsAreComputedEquallyOneAfterAnother) {
  make_model({.n_layer = 5});
  const auto made = executor(offloaded());
  ASSERT_NE(made, nullptr);
  const Logits first = conversation_of(*made);
  for (int i = 0; i < 2; ++i) {
    made->clear();
    EXPECT_EQ(conversation_of(*made), first);
  }
}

// Their plain bytes are in the file alone.
TEST_F(PromptOffloadTest, LayersInTheProcessorsOwnLayoutComeFromTheFile) {
  make_model({.n_layer = 5, .mixture = "Q4_0"});
  const auto prompt_of = [&](const ExecutorOptions& options) {
    const auto made = executor(options);
    Sequences sequences(*made, n_layer());
    const Status computed = sequences.step({{0, 64}});
    EXPECT_TRUE(computed) << computed.error().message();
    return sequences.logits;
  };
  const Logits expected = prompt_of(cpu_only());
  ExecutorOptions options = offloaded();
  options.repack = true;
  EXPECT_LT(largest_distance(prompt_of(options), expected), 1e-3);

  // And from a layer store, whose matrices are all in that layout.
  const model::TemporaryFolder store;
  ExecutorOptions stored = cpu_only();
  stored.memory = weights::MemoryBudget{.total = smallest_memory(stored) + kMiB, .was_asked = true};
  stored.store.root = store.path();
  auto written = weights::LayerStore::open([&] {
    weights::LayerStoreOptions store_options = stored.store;
    store_options.model_identity = weights::file_identity(*model_);
    return store_options;
  }());
  ASSERT_TRUE(written) << written.error().message();
  std::vector<int> layers(n_layer());
  std::iota(layers.begin(), layers.end(), 0);
  const auto layout =
      weights::gguf_layout(*model_, {.layers = layers, .embedding = true, .output = true});
  const Status wrote = written->write(layout, {});
  ASSERT_TRUE(wrote) << wrote.error().message();
  stored.offload_from_tokens = kFrom;
  EXPECT_LT(largest_distance(prompt_of(stored), expected),
            0.05);  // the output layer is the store's
}

TEST_F(PromptOffloadTest, WorksBesideLayersThatLiveInTheGpusMemory) {
  make_model({.n_layer = 6});
  const Logits expected = conversation_of(cpu_only());
  ExecutorOptions options = offloaded();
  options.gpus = {{.device = list_gpus().front().name, .layers = {{1, 2}, {4, 5}}}};
  EXPECT_LT(largest_distance(conversation_of(options), expected), 1e-3);
  EXPECT_EQ(most_tokens_on_cpu_, kFrom - 1);
}

TEST_F(PromptOffloadTest, TakesWhatTheGpusMemoryHasLeftOrNothing) {
  make_model({.n_layer = 5});
  ExecutorOptions options = offloaded();
  const Logits expected = conversation_of(cpu_only());
  const Bytes for_two = executor(options)->memory().gpu;

  // The least that is enough is for one layer at a time.
  Bytes enough = kMiB;
  Bytes taken = 0;
  for (; enough < kGiB && taken == 0; enough += model_->layer_bytes(0) / 2) {
    options.gpu.memory_limit = enough;
    taken = executor(options)->memory().gpu;
  }
  EXPECT_LT(taken, for_two);
  EXPECT_LE(taken, enough);
  EXPECT_LT(largest_distance(conversation_of(options), expected), 1e-3);
  EXPECT_EQ(most_tokens_on_cpu_, kFrom - 1);

  options.gpu.memory_limit = kMiB;
  const auto without = executor(options);
  ASSERT_NE(without, nullptr);
  EXPECT_EQ(without->memory().gpu, 0u);
  EXPECT_EQ(conversation_of(*without), expected);
  EXPECT_EQ(most_tokens_on_cpu_, kMaxTokens);
}

// Whichever of the two is faster here: it is decided, and logits are the same.
TEST_F(PromptOffloadTest, MeasuresFromWhereItIsFaster) {
  make_model({.n_layer = 5});
  const Logits expected = conversation_of(cpu_only());
  ExecutorOptions options = offloaded();
  options.offload_from_tokens = 0;
  EXPECT_LT(largest_distance(conversation_of(options), expected), 1e-3);
  options.memory = weights::MemoryBudget{.total = smallest_memory(cpu_only()), .was_asked = true};
  for (const auto place : {weights::StreamingPlace::slots, weights::StreamingPlace::in_place}) {
    options.streaming.place = place;
    EXPECT_LT(largest_distance(conversation_of(options), expected), 1e-3);
  }
}

TEST_F(PromptOffloadTest, KeepsWeightsForTheNextStepOfTheSameLayers) {
  make_model({.n_layer = 6, .mixture = "Q8_0"});
  ExecutorOptions options = offloaded();
  options.memory = weights::MemoryBudget{
      .total = smallest_memory(options) + 3 * model_->layer_bytes(0), .was_asked = true};
  options.streaming.slot_bytes = 3 * model_->layer_bytes(0);
  const auto read_by = [&](bool keep) {
    const auto made = executor(options);
    EXPECT_GT(made->memory().streamed, 0u);
    made->keep_weights(keep);
    return conversation_of(*made);
  };
  EXPECT_EQ(read_by(true), read_by(false));
}

}  // namespace
}  // namespace prima::compute

// Logits must not depend on where weights come from: in memory, streamed within any budget, through
// any reader.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/executor.h"
#include "compute/forward_session.h"
#include "compute/test_logits.h"
#include "model/model_file.h"
#include "model/synth.h"
#include "model/testing/temporary_folder.h"

namespace prima::compute {
namespace {

constexpr std::uint32_t kContext = 256;
constexpr std::uint32_t kMaxTokens = 32;

using weights::ReaderKind;

class Model {
 public:
  explicit Model(const std::filesystem::path& path)
      : file_(std::move(*model::ModelFile::open(path))) {}

  std::uint32_t n_layer() const { return file_.hyperparameters().n_layer; }

  struct Settings {
    std::optional<Bytes> memory{};
    weights::ReaderOptions reader{};
    bool repack = false;
    weights::LayerStoreOptions store{};
    weights::StreamingPlace place = weights::StreamingPlace::automatic;
  };

  Result<std::unique_ptr<Executor>> executor(const Settings& settings) const {
    ExecutorOptions options;
    options.windows = {{0, n_layer()}};
    options.n_ctx = kContext;
    options.max_tokens = kMaxTokens;
    options.n_threads = 1;
    options.repack = settings.repack;
    if (settings.memory) {
      options.memory = weights::MemoryBudget{.total = *settings.memory, .was_asked = true};
    }
    options.store = settings.store;
    options.yields_memory = false;
    options.streaming.reader = settings.reader;
    options.streaming.place = settings.place;
    options.streaming.streamer.chunk = 64 * kKiB;
    return Executor::create(file_, options);
  }

  // The logits after a prompt, and after each of some more tokens.
  Result<std::vector<std::vector<float>>> logits(Executor& executor) const {
    ForwardSession session(executor, n_layer(), kContext, kMaxTokens);
    std::vector<std::int32_t> prompt;
    for (std::int32_t i = 0; i < 50; ++i) prompt.push_back(3 + i * 7 % 200);
    std::vector<std::vector<float>> all;
    PRIMA_ASSIGN_OR_RETURN(auto logits, session.decode(prompt));
    all.push_back(std::move(logits));
    for (std::int32_t token = 10; token < 16; ++token) {
      PRIMA_ASSIGN_OR_RETURN(logits, session.decode(std::span(&token, 1)));
      all.push_back(std::move(logits));
    }
    return all;
  }

 private:
  model::ModelFile file_;
};

// Another executor with every embedded value one in a million larger or smaller.
class NudgedEmbedding final : public Executor {
 public:
  explicit NudgedEmbedding(Executor& executor) : executor_(executor) {}

  Status embed(std::span<const std::int32_t> tokens, std::vector<float>& hidden) override {
    PRIMA_RETURN_IF_ERROR(executor_.embed(tokens, hidden));
    for (std::size_t i = 0; i < hidden.size(); ++i) hidden[i] *= i % 2 == 0 ? 1 + 1e-6F : 1 - 1e-6F;
    return {};
  }
  Status begin(const Step& step) override { return executor_.begin(step); }
  Status run(LayerRange layers, const Step& step, std::vector<float>& hidden) override {
    return executor_.run(layers, step, hidden);
  }
  Status logits(std::span<const float> hidden, std::vector<float>& logits) override {
    return executor_.logits(hidden, logits);
  }
  Status embeddings(std::span<const float> hidden, std::vector<float>& embeddings) override {
    return executor_.embeddings(hidden, embeddings);
  }
  void clear() override { executor_.clear(); }
  void rest() override { executor_.rest(); }
  ExecutorMemory memory() const override { return executor_.memory(); }

 private:
  Executor& executor_;
};

// The least memory with which the executor starts, from its own refusal.
Bytes smallest_memory(const Model& model) {
  const auto refused = model.executor({.memory = 1});
  EXPECT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::resource_exhausted);
  const std::string& remedy = refused.error().remedy;
  return std::stoull(remedy.substr(remedy.find('(') + 1));
}

void expect_same_logits(const std::filesystem::path& path) {
  SCOPED_TRACE(path);
  const Model model(path);
  auto resident = model.executor({});
  ASSERT_TRUE(resident) << resident.error().message();
  const auto expected = model.logits(**resident);
  ASSERT_TRUE(expected) << expected.error().message();

  const Bytes smallest = smallest_memory(model);
  EXPECT_FALSE(model.executor({.memory = smallest - 1}));
  const ExecutorMemory all = (*resident)->memory();
  const Bytes largest = all.weights + all.kv_cache + all.compute_buffers + 4 * kMiB;
  for (const double share : {0.0, 0.1, 0.5, 1.0}) {
    const auto memory =
        smallest + static_cast<Bytes>(share * static_cast<double>(largest - smallest));
    SCOPED_TRACE(memory);
    for (const Model::Settings& settings : {
             Model::Settings{.memory = memory},
             Model::Settings{.memory = memory, .reader = {ReaderKind::threads, true, 3}},
             Model::Settings{.memory = memory, .reader = {ReaderKind::automatic, false, 4}},
             Model::Settings{.memory = memory, .place = weights::StreamingPlace::in_place},
         }) {
      auto streamed = model.executor(settings);
      ASSERT_TRUE(streamed) << streamed.error().message();
      const ExecutorMemory used = (*streamed)->memory();
      EXPECT_LE(used.weights + used.kv_cache + used.compute_buffers, memory);
      EXPECT_TRUE(share > 0.0 || used.streamed > 0);
      const auto actual = model.logits(**streamed);
      ASSERT_TRUE(actual) << actual.error().message();
      for (std::size_t i = 0; i < expected->size(); ++i) {
        ASSERT_EQ((*actual)[i], (*expected)[i]) << "step " << i;
      }
    }
  }
}

// From a layer store, in the processor's own layout: the same to the last bit as weights repacked
// in memory.
TEST(Streaming, FromALayerStoreLogitsAreThoseOfRepackedWeights) {
  const model::TemporaryFolder folder;
  const auto path = folder.path() / "model.gguf";
  ASSERT_TRUE(model::synthesize({.n_layer = 5, .mixture = "Q4_K_M"}, path));
  const auto file = model::ModelFile::open(path);
  ASSERT_TRUE(file) << file.error().message();
  const weights::LayerStoreOptions store{.root = folder.path() / "store", .model_identity = "m"};
  auto layer_store = weights::LayerStore::open(store);
  ASSERT_TRUE(layer_store) << layer_store.error().message();
  const auto written = layer_store->write(
      weights::gguf_layout(*file, {.layers = {0, 1, 2, 3, 4}, .embedding = true, .output = true}));
  ASSERT_TRUE(written) << written.error().message();

  const Model model(path);
  auto resident = model.executor({.repack = true});
  ASSERT_TRUE(resident) << resident.error().message();
  const auto expected = model.logits(**resident);
  ASSERT_TRUE(expected) << expected.error().message();
  const Bytes smallest = smallest_memory(model);
  for (const Bytes memory : {smallest + 16 * kKiB, smallest + kMiB, smallest + kGiB}) {
    for (const auto place : {weights::StreamingPlace::slots, weights::StreamingPlace::in_place}) {
      auto streamed = model.executor({.memory = memory, .store = store, .place = place});
      ASSERT_TRUE(streamed) << streamed.error().message();
      const auto actual = model.logits(**streamed);
      ASSERT_TRUE(actual) << actual.error().message();
      EXPECT_TRUE(*actual == *expected) << "with " << memory << " bytes";
    }
  }
}

// What comes of one token of each of four sequences, through two windows, one sequence after the
// other in each; `keep`: as a wave.
struct Wave {
  std::vector<std::vector<float>> logits;
  Bytes read = 0;
};

Result<Wave> pass_wave(Executor& executor, const std::vector<LayerRange>& windows, bool keep) {
  constexpr std::int32_t kSequences = 4;
  executor.clear();
  KvCells cells(kContext);
  std::vector<Step> steps(kSequences);
  std::vector<std::vector<float>> hidden(kSequences);
  for (std::int32_t i = 0; i < kSequences; ++i) {
    Step& step = steps[static_cast<std::size_t>(i)];
    step.sequences = {i};
    step.positions = {0};
    step.outputs = {0};
    PRIMA_RETURN_IF_ERROR(cells.place(step));
    PRIMA_RETURN_IF_ERROR(cells.apply(step));
    PRIMA_RETURN_IF_ERROR(executor.begin(step));
    const std::int32_t token = 5 + i;
    PRIMA_RETURN_IF_ERROR(executor.embed({&token, 1}, hidden[static_cast<std::size_t>(i)]));
  }
  Wave wave;
  const Bytes before = executor.weight_reads().bytes;
  for (const LayerRange& window : windows) {
    for (std::size_t i = 0; i < steps.size(); ++i) {
      executor.keep_weights(keep && i + 1 < steps.size());
      PRIMA_RETURN_IF_ERROR(executor.run(window, steps[i], hidden[i]));
    }
  }
  for (std::size_t i = 0; i < steps.size(); ++i) {
    executor.keep_weights(keep && i + 1 < steps.size());
    PRIMA_RETURN_IF_ERROR(executor.logits(hidden[i], wave.logits.emplace_back()));
  }
  wave.read = executor.weight_reads().bytes - before;
  return wave;
}

TEST(Streaming, ReadsAWindowOnceForAWaveOfSteps) {
  const model::TemporaryFolder folder;
  const auto path = folder.path() / "model.gguf";
  ASSERT_TRUE(model::synthesize({.n_layer = 6, .mixture = "Q4_K_M"}, path));
  const auto file = model::ModelFile::open(path);
  ASSERT_TRUE(file) << file.error().message();
  const std::vector<LayerRange> windows{{0, 3}, {3, 6}};
  const auto make = [&](std::optional<Bytes> memory, std::optional<Bytes> slots) {
    ExecutorOptions options;
    options.windows = windows;
    options.n_ctx = kContext;
    options.max_tokens = kMaxTokens;
    options.n_threads = 1;
    options.repack = false;
    options.yields_memory = false;
    if (memory) options.memory = weights::MemoryBudget{.total = *memory, .was_asked = true};
    options.streaming.slot_bytes = slots;
    options.streaming.streamer.chunk = 64 * kKiB;
    return Executor::create(*file, options);
  };
  auto resident = make({}, {});
  ASSERT_TRUE(resident) << resident.error().message();
  const auto expected = pass_wave(**resident, windows, false);
  ASSERT_TRUE(expected) << expected.error().message();

  // Slots that hold a window, and such as do not.
  const ExecutorMemory all = (*resident)->memory();
  const Bytes memory = all.kv_cache + all.compute_buffers + all.weights * 9 / 10;
  for (const bool enough : {true, false}) {
    const std::optional<Bytes> slots =
        enough ? std::optional(all.weights / 2 / kMiB * kMiB) : std::nullopt;
    auto streamed = make(memory, slots);
    ASSERT_TRUE(streamed) << streamed.error().message();
    const auto apart = pass_wave(**streamed, windows, false);
    ASSERT_TRUE(apart) << apart.error().message();
    EXPECT_EQ(apart->logits, expected->logits);
    const auto wave = pass_wave(**streamed, windows, true);
    ASSERT_TRUE(wave) << wave.error().message();
    EXPECT_EQ(wave->logits, expected->logits);
    if (!enough) continue;
    const ExecutorMemory used = (*streamed)->memory();
    ASSERT_GT(used.streamed, 0u);
    EXPECT_LE(wave->read, used.streamed + used.slots);  // once, and ahead for the next
    EXPECT_GT(apart->read, 2 * wave->read);
  }
}

class StoredModel : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(model::synthesize({.n_layer = 5, .mixture = "Q4_K_M"}, path_));
    const auto file = model::ModelFile::open(path_);
    ASSERT_TRUE(file) << file.error().message();
    auto store = weights::LayerStore::open(store_);
    ASSERT_TRUE(store) << store.error().message();
    ASSERT_TRUE(store->write(weights::gguf_layout(
        *file, {.layers = {0, 1, 2, 3, 4}, .embedding = true, .output = true})));
    layer_ = store->folder() / "layer-00002.weights";
    if (!std::filesystem::exists(layer_)) GTEST_SKIP() << "nothing is repacked here";
  }

  model::TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / "model.gguf";
  weights::LayerStoreOptions store_{.root = folder_.path() / "store", .model_identity = "m"};
  std::filesystem::path layer_;
};

double largest_distance(const std::vector<std::vector<float>>& actual,
                        const std::vector<std::vector<float>>& expected) {
  double worst = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    worst = std::max(worst, relative_rms(actual[i], expected[i]));
  }
  return worst;
}

// How far a model's logits go from those of weights as they lie in the file, at most.
struct Distances {
  double stored = 0;  // with weights from a layer store
  double nudged = 0;  // with the embedding changed by one in a million
};

Distances measure_distances(const std::filesystem::path& path) {
  const model::TemporaryFolder folder;
  const auto file = model::ModelFile::open(path);
  const weights::LayerStoreOptions options{.root = folder.path() / "store", .model_identity = "m"};
  auto store = weights::LayerStore::open(options);
  EXPECT_TRUE(file && store);
  std::vector<int> layers;
  for (std::uint32_t i = 0; i < file->hyperparameters().n_layer; ++i) {
    layers.push_back(static_cast<int>(i));
  }
  EXPECT_TRUE(store->write(
      weights::gguf_layout(*file, {.layers = layers, .embedding = true, .output = true})));
  const Model model(path);
  auto plain = model.executor({.memory = 4 * kGiB});
  auto stored = model.executor({.memory = 4 * kGiB, .store = options});
  EXPECT_TRUE(plain && stored);
  const auto expected = model.logits(**plain);
  const auto of_store = model.logits(**stored);
  (*plain)->clear();
  NudgedEmbedding nudging(**plain);
  const auto of_nudged = model.logits(nudging);
  EXPECT_TRUE(expected && of_store && of_nudged);
  return {.stored = largest_distance(*of_store, *expected),
          .nudged = largest_distance(*of_nudged, *expected)};
}

// Kernels of another layout add in another order; one product differs by less than 1e-6
// (weights/layout_test). A difference in the last bit now and then turns an activation's rounding
// to 8 bits the other way, and from there on it is as large as that rounding. So the logits go as
// far apart as they do for any other difference in the last bits.
void expect_distance_of_rounding(const std::filesystem::path& path) {
  const Distances distances = measure_distances(path);
  std::cout << path.filename() << ": logits of the store " << distances.stored
            << " from the file's, of a nudged embedding " << distances.nudged << '\n';
  EXPECT_LE(distances.stored, 2 * distances.nudged + 1e-3);
}

TEST(Streaming, TheStoresKernelsChangeLogitsNoMoreThanRoundingDoes) {
  for (const char* type : {"Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "Q2_K", "IQ4_NL"}) {
    SCOPED_TRACE(type);
    const model::TemporaryFolder folder;
    const auto path = folder.path() / (std::string(type) + ".gguf");
    ASSERT_TRUE(model::synthesize({.n_layer = 3, .mixture = type, .pure = true}, path));
    expect_distance_of_rounding(path);
  }
}

// One bit in the middle of a matrix, in no row that is sampled when the store is opened.
TEST_F(StoredModel, DamageAnywhereIsNoticedBeforeItIsComputedWith) {
  const Model model(path_);
  const Bytes smallest = smallest_memory(model);
  for (const Bytes memory : {smallest + 16 * kKiB, smallest + kGiB}) {
    const std::string sound = [&] {
      std::ifstream file(layer_, std::ios::binary);
      return std::string(std::istreambuf_iterator<char>(file), {});
    }();
    std::string damaged = sound;
    damaged[9 * 1024 + 5] ^= 4;
    std::ofstream(layer_, std::ios::binary) << damaged;
    // What is resident is looked at when it is loaded, what is streamed when it is used.
    auto executor = model.executor({.memory = memory, .store = store_});
    EXPECT_EQ(executor.has_value(), memory < smallest + kGiB);
    std::optional<Error> error;
    if (!executor) {
      error = executor.error();
    } else {
      const auto logits = model.logits(**executor);
      ASSERT_FALSE(logits) << memory;
      error = logits.error();
      executor->reset();
    }
    EXPECT_EQ(error->code, ErrorCode::corrupt);
    EXPECT_THAT(error->what, testing::HasSubstr("layer-00002"));
    EXPECT_FALSE(std::filesystem::exists(layer_));
    auto again = model.executor({.memory = memory, .store = store_});
    ASSERT_TRUE(again) << again.error().message();
    EXPECT_TRUE(model.logits(**again));
    again->reset();
    std::ofstream(layer_, std::ios::binary) << sound;
  }
}

// While weights are in use, resident or streamed: an error that names the file, no wrong logits and
// no crash.
TEST(Streaming, AModelFileThatChangesIsAnError) {
  const std::function<void(const std::filesystem::path&)> changes[] = {
      [](const auto& path) {
        std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
      },
      [](const auto& path) {
        std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
        file.seekp(-1000, std::ios::end);
        file << "other weights";
      }};
  for (const auto& change : changes) {
    struct Case {
      const char* name;
      bool streamed;
      weights::StreamingPlace place;
    };
    for (const Case& each : {Case{"streamed", true, weights::StreamingPlace::slots},
                             Case{"in place", true, weights::StreamingPlace::in_place},
                             Case{"resident", false, weights::StreamingPlace::automatic}}) {
      const model::TemporaryFolder folder;
      const auto path = folder.path() / "model.gguf";
      ASSERT_TRUE(model::synthesize({.n_layer = 5, .mixture = "Q8_0"}, path));
      const Model model(path);
      const Bytes memory = each.streamed ? smallest_memory(model) : kGiB;
      auto executor = model.executor({.memory = memory, .place = each.place});
      ASSERT_TRUE(executor) << executor.error().message();
      ASSERT_TRUE(model.logits(**executor));
      change(path);
      (*executor)->clear();
      const auto logits = model.logits(**executor);
      ASSERT_FALSE(logits) << each.name;
      EXPECT_EQ(logits.error().code, ErrorCode::unavailable) << logits.error().message();
      EXPECT_THAT(logits.error().what, testing::HasSubstr("model.gguf"));
    }
  }
}

// Another file under the same name is no concern of those who have the old one open.
TEST(Streaming, AModelFileThatIsReplacedStaysInUse) {
  const model::TemporaryFolder folder;
  const auto path = folder.path() / "model.gguf";
  ASSERT_TRUE(model::synthesize({.n_layer = 5, .mixture = "Q8_0"}, path));
  const Model model(path);
  auto executor = model.executor({.memory = smallest_memory(model)});
  ASSERT_TRUE(executor) << executor.error().message();
  const auto before = model.logits(**executor);
  ASSERT_TRUE(before);
  ASSERT_TRUE(model::synthesize({.n_layer = 5, .mixture = "Q8_0", .seed = 99}, path));
  (*executor)->clear();
  const auto after = model.logits(**executor);
  ASSERT_TRUE(after) << after.error().message();
  EXPECT_EQ(*after, *before);
}

struct Shape {
  const char* name;
  model::SynthOptions options;
};

class SyntheticModel : public testing::TestWithParam<Shape> {};

TEST_P(SyntheticModel, GivesTheSameLogitsWithinAnyBudget) {
  const model::TemporaryFolder folder;
  const auto path = folder.path() / "model.gguf";
  const auto written = model::synthesize(GetParam().options, path);
  ASSERT_TRUE(written) << written.error().message();
  expect_same_logits(path);
}

INSTANTIATE_TEST_SUITE_P(
    Streaming, SyntheticModel,
    testing::Values(
        Shape{"dense", {.n_layer = 6, .mixture = "Q4_K_M"}},
        Shape{"tied", {.architecture = "gemma3", .n_layer = 7, .tied = true, .mixture = "Q8_0"}},
        Shape{"experts",
              {.architecture = "qwen3moe", .n_layer = 3, .n_expert = 4, .mixture = "Q4_0"}}),
    [](const testing::TestParamInfo<Shape>& shape) { return shape.param.name; });

// For files that are not in the repository: PRIMA_PARITY_MODELS=a.gguf:b.gguf
TEST(Streaming, GivesTheSameLogitsOnGivenModels) {
  const char* list = std::getenv("PRIMA_PARITY_MODELS");
  if (list == nullptr) GTEST_SKIP() << "PRIMA_PARITY_MODELS names no files";
  std::istringstream paths(list);
  for (std::string path; std::getline(paths, path, ':');) {
    expect_same_logits(path);
    expect_distance_of_rounding(path);
  }
}

}  // namespace
}  // namespace prima::compute

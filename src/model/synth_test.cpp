#include "model/synth.h"

#include <cmath>
#include <cstring>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/model_file.h"
#include "model/random_weights.h"
#include "model/testing/temporary_folder.h"
#include "model/testing/tiny_gguf.h"

namespace prima::model {
namespace {

using testing::HasSubstr;

std::vector<float> generate(ggml_type type, std::int64_t columns, std::int64_t rows,
                            float deviation, bool distinct_rows, std::uint64_t seed = 1) {
  std::vector<std::byte> bytes;
  RandomWeights weights(seed);
  const auto status = weights.generate({.name = "x",
                                        .type = type,
                                        .columns = columns,
                                        .rows = rows,
                                        .deviation = deviation,
                                        .distinct_rows = distinct_rows},
                                       [&](std::span<const std::byte> part) -> Status {
                                         bytes.insert(bytes.end(), part.begin(), part.end());
                                         return {};
                                       });
  EXPECT_TRUE(status);
  EXPECT_EQ(bytes.size(), ggml_row_size(type, columns) * static_cast<std::size_t>(rows));
  std::vector<float> values(static_cast<std::size_t>(columns * rows));
  if (type == GGML_TYPE_F32) {
    std::memcpy(values.data(), bytes.data(), bytes.size());
  } else {
    ggml_get_type_traits(type)->to_float(bytes.data(), values.data(), columns * rows);
  }
  return values;
}

double deviation_of(const std::vector<float>& values) {
  double squares = 0;
  for (const float value : values) squares += static_cast<double>(value) * value;
  return std::sqrt(squares / static_cast<double>(values.size()));
}

TEST(RandomWeights, HaveTheDeviationAskedForInEveryType) {
  for (int number = 0; number < GGML_TYPE_COUNT; ++number) {
    const auto type = static_cast<ggml_type>(number);
    if (ggml_blck_size(type) == 0 || !is_quantizable(type)) continue;
    const auto values = generate(type, 1024, 64, 0.02f, false);
    for (const float value : values) ASSERT_TRUE(std::isfinite(value)) << ggml_type_name(type);
    EXPECT_NEAR(deviation_of(values) / 0.02, 1.0, 0.15) << ggml_type_name(type);
  }
}

TEST(RandomWeights, HaveDistinctRowsWhereAsked) {
  for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_Q4_K, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0}) {
    for (const std::int64_t columns : {256, 2048}) {
      constexpr std::int64_t kRows = 3000;
      const auto values = generate(type, columns, kRows, 1.0f, true);
      std::set<std::vector<float>> rows;
      for (std::int64_t row = 0; row < kRows; ++row) {
        rows.emplace(values.begin() + row * columns, values.begin() + (row + 1) * columns);
      }
      EXPECT_EQ(rows.size(), static_cast<std::size_t>(kRows)) << ggml_type_name(type);
    }
  }
}

TEST(RandomWeights, AreZeroWhereAllBytesAreZero) {
  // What extend_model relies on.
  for (int number = 0; number < GGML_TYPE_COUNT; ++number) {
    const auto type = static_cast<ggml_type>(number);
    if (ggml_blck_size(type) == 0 || !is_quantizable(type) || type == GGML_TYPE_F32) continue;
    const std::vector<std::byte> bytes(ggml_row_size(type, 512));
    std::vector<float> values(512, 1.0f);
    ggml_get_type_traits(type)->to_float(bytes.data(), values.data(), 512);
    EXPECT_THAT(values, testing::Each(0.0f)) << ggml_type_name(type);
  }
}

TEST(Random, IsCloseToNormal) {
  Random random(3);
  constexpr int kSamples = 100000;
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < kSamples; ++i) {
    const double value = random.normal();
    sum += value;
    squares += value * value;
  }
  EXPECT_NEAR(sum / kSamples, 0.0, 0.02);
  EXPECT_NEAR(squares / kSamples, 1.0, 0.02);
}

class SynthTest : public testing::Test {
 protected:
  std::filesystem::path path(const std::string& name = "model.gguf") const {
    return folder_.path() / name;
  }
  std::size_t file_count() const {
    const std::filesystem::directory_iterator files(folder_.path());
    return static_cast<std::size_t>(std::distance(begin(files), end(files)));
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(SynthTest, IsTheSameForTheSameSeed) {
  SynthOptions options;
  options.n_layer = 2;
  ASSERT_TRUE(synthesize(options, path("a")));
  ASSERT_TRUE(synthesize(options, path("b")));
  EXPECT_EQ(read_file(path("a")), read_file(path("b")));
  options.seed = 2;
  ASSERT_TRUE(synthesize(options, path("b")));
  EXPECT_NE(read_file(path("a")), read_file(path("b")));
}

TEST_F(SynthTest, HasTheShapeAskedFor) {
  SynthOptions options;
  options.architecture = "qwen3moe";
  options.n_layer = 3;
  options.n_embd = 512;
  options.n_head = 8;
  options.n_head_kv = 2;
  options.head_dim = 32;
  options.n_vocab = 700;
  options.n_ctx = 1234;
  options.n_expert = 6;
  options.n_expert_used = 3;
  options.n_ff_expert = 256;
  options.rope_scaling = SynthRopeScaling::yarn;
  options.rope_factor = 4.0f;
  options.rope_n_ctx_original = 300;
  ASSERT_TRUE(synthesize(options, path()));
  const auto file = ModelFile::open(path());
  ASSERT_TRUE(file) << file.error().message();
  const Hyperparameters& model = file->hyperparameters();
  EXPECT_EQ(model.n_layer, 3u);
  EXPECT_EQ(model.n_embd, 512u);
  EXPECT_EQ(model.n_head, 8u);
  EXPECT_EQ(model.n_head_kv, 2u);
  EXPECT_EQ(model.head_dim, 32u);
  EXPECT_EQ(model.n_vocab, 700u);
  EXPECT_EQ(model.n_ctx_train, 1234u);
  EXPECT_EQ(model.n_expert, 6u);
  EXPECT_EQ(model.n_expert_used, 3u);
  EXPECT_EQ(model.n_ff_expert, 256u);
  EXPECT_EQ(model.rope.scaling, RopeScaling::yarn);
  EXPECT_FLOAT_EQ(model.rope.frequency_scale, 0.25f);
  EXPECT_EQ(model.rope.n_ctx_original, 300u);
  EXPECT_EQ(file->mixture(), "Q4_K_M");
}

TEST_F(SynthTest, RefusesShapesThatCannotBe) {
  const auto expect_refused = [&](const SynthOptions& options, const std::string& what) {
    const auto result = synthesize(options, path());
    ASSERT_FALSE(result) << what;
    EXPECT_EQ(result.error().code, ErrorCode::invalid_argument) << result.error().message();
    EXPECT_THAT(result.error().what, HasSubstr(what));
    EXPECT_EQ(file_count(), 0u);
  };
  SynthOptions options;
  options.architecture = "bert";
  expect_refused(options, "'bert'");
  options = {};
  options.n_vocab = 100;
  expect_refused(options, "vocabulary of 100");
  options = {};
  options.n_head = 7;
  expect_refused(options, "7 heads");
  options = {};
  options.n_layer = 1000;
  expect_refused(options, "block_count is 1000");
  options = {};
  options.n_head_kv = 3;
  expect_refused(options, "head_count");
  options = {};
  options.mixture = "Q9_Z";
  expect_refused(options, "'Q9_Z'");
  options = {};
  options.n_swa = 4;
  expect_refused(options, "sliding window");
  options = {};
  options.architecture = "qwen2";
  options.rope_scaling = SynthRopeScaling::llama3;
  expect_refused(options, "rope factors");
  options = {};
  options.rope_factor = 0.0f;
  expect_refused(options, "rope factor");
  options = {};
  options.n_layer = 512;
  options.n_embd = 1 << 23;
  options.n_ff = 1 << 24;
  options.n_head = 1;
  options.n_expert = 1024;
  options.mixture = "F32";
  expect_refused(options, "larger than any disk");
}

TEST_F(SynthTest, ChecksTheDiskFirst) {
  SynthOptions options;
  options.n_layer = 500;
  options.n_embd = 65536;
  options.mixture = "F32";
  const auto result = synthesize(options, path());
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::resource_exhausted);
  EXPECT_THAT(result.error().what, HasSubstr("the disk has only"));
  EXPECT_EQ(file_count(), 0u);
}

TEST_F(SynthTest, LeavesNothingBehindWhenCancelled) {
  write_file(path(), "what was there");
  int calls = 0;
  const auto result = synthesize({}, path(), [&](Bytes, Bytes) { return ++calls < 5; });
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::cancelled);
  EXPECT_EQ(read_file(path()), "what was there");
  EXPECT_EQ(file_count(), 1u);
}

TEST_F(SynthTest, NamesAFolderThatIsNotThere) {
  const auto result = synthesize({}, path("no/such/folder.gguf"));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::not_found);
  const auto folder = synthesize({}, path().parent_path());
  ASSERT_FALSE(folder);
  EXPECT_EQ(folder.error().code, ErrorCode::invalid_argument);
}

class ExtendTest : public SynthTest {};

TEST_F(ExtendTest, KeepsTensorsAndAddsLayersThatChangeNothing) {
  SynthOptions options;
  options.n_layer = 3;
  options.biases = true;
  ASSERT_TRUE(synthesize(options, path()));
  const auto extended = extend_model(path(), 7, 9, path("longer.gguf"));
  ASSERT_TRUE(extended) << extended.error().message();
  const auto before = ModelFile::open(path());
  const auto after = ModelFile::open(path("longer.gguf"));
  ASSERT_TRUE(before);
  ASSERT_TRUE(after) << after.error().message();
  EXPECT_EQ(after->hyperparameters().n_layer, 7u);

  const std::string old_bytes = read_file(path());
  const std::string new_bytes = read_file(path("longer.gguf"));
  const auto bytes_of = [](const std::string& file, const TensorInfo& tensor) {
    return file.substr(tensor.bytes.offset, tensor.bytes.size);
  };
  for (const TensorInfo& tensor : before->tensors()) {
    const TensorInfo* same = after->find(tensor.name);
    ASSERT_NE(same, nullptr) << tensor.name;
    EXPECT_EQ(bytes_of(old_bytes, tensor), bytes_of(new_bytes, *same)) << tensor.name;
  }
  for (int layer = 3; layer < 7; ++layer) {
    for (const TensorRole role : {TensorRole::attention_output, TensorRole::attention_output_bias,
                                  TensorRole::ffn_down, TensorRole::ffn_down_bias}) {
      const std::string bytes = bytes_of(new_bytes, *after->find(role, layer));
      EXPECT_EQ(bytes.find_first_not_of('\0'), std::string::npos) << tensor_name(role, layer);
    }
    const TensorInfo& query = *after->find(TensorRole::attention_q, layer);
    EXPECT_EQ(query.type, before->find(TensorRole::attention_q, layer % 3)->type);
    EXPECT_NE(bytes_of(new_bytes, query).find_first_not_of('\0'), std::string::npos);
  }
  Metadata expected = before->metadata();
  expected.set("llama.block_count", std::uint64_t{7});
  EXPECT_EQ(after->metadata().values(), expected.values());
}

TEST_F(ExtendTest, GoesOnWithListsOfLayersAndWindows) {
  Metadata metadata = tiny_metadata("gemma3");
  const auto list = [](std::vector<std::uint64_t> values) {
    return MetadataArray(std::move(values));
  };
  metadata.set("gemma3.block_count", std::uint64_t{4});
  metadata.set("gemma3.attention.head_count", list({2, 2, 2, 2}));
  metadata.set("gemma3.attention.sliding_window", std::uint64_t{16});
  metadata.set("gemma3.attention.sliding_window_pattern",
               MetadataArray(std::vector<bool>{true, true, false, true}));
  write_file(path(), gguf_bytes(metadata, tiny_tensors(metadata)));
  const auto extended = extend_model(path(), 9, 1, path("longer.gguf"));
  ASSERT_TRUE(extended) << extended.error().message();
  const auto after = ModelFile::open(path("longer.gguf"));
  ASSERT_TRUE(after) << after.error().message();
  for (std::uint32_t layer = 0; layer < 9; ++layer) {
    EXPECT_EQ(after->hyperparameters().has_sliding_window(layer), layer % 3 < 2) << layer;
  }
}

TEST_F(ExtendTest, RefusesWhatWouldBeAnotherModel) {
  ASSERT_TRUE(synthesize({}, path()));
  const auto fewer = extend_model(path(), 4, 1, path("longer.gguf"));
  ASSERT_FALSE(fewer);
  EXPECT_THAT(fewer.error().what, HasSubstr("has 4 layers already"));

  // With 62 layers it is taken for Gemma 3 27B, whose attention scales otherwise.
  SynthOptions gemma;
  gemma.architecture = "gemma3";
  gemma.head_dim = 32;
  ASSERT_TRUE(synthesize(gemma, path()));
  const auto other = extend_model(path(), 62, 1, path("longer.gguf"));
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, ErrorCode::unsupported);
  EXPECT_TRUE(extend_model(path(), 61, 1, path("longer.gguf")));
}

}  // namespace
}  // namespace prima::model

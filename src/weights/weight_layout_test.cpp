#include "weights/weight_layout.h"

#include <optional>

#include <gtest/gtest.h>

#include "model/synth.h"
#include "model/testing/temporary_folder.h"
#include "weights/checksum.h"
#include "weights/mapped_file.h"
#include "weights/streamed_weights.h"

namespace prima::weights {
namespace {

using model::TensorRole;

PlacedTensor part_of(std::uint32_t part, std::uint32_t n_parts, Bytes offset) {
  const std::int64_t first = 10 * static_cast<std::int64_t>(part);
  return {.role = TensorRole::ffn_up,
          .layer = 3,
          .name = "up[" + std::to_string(first) + ":" + std::to_string(first + 10) + "]",
          .shape = {4, 10, 1, 1},
          .bytes = {offset, 160},
          .checksums = {{160, part + 100}},
          .part = part,
          .n_parts = n_parts};
}

TEST(InLargerParts, JoinsWhatLiesOneAfterTheOther) {
  const WeightLayout layout{.paths = {"a"},
                            .tensors = {part_of(0, 3, 0), part_of(1, 3, 160), part_of(2, 3, 320)}};
  const auto two = in_larger_parts(layout, 400).tensors;
  ASSERT_EQ(two.size(), 2);
  EXPECT_EQ(two[0].name, "up[0:20]");
  EXPECT_EQ(two[0].shape[1], 20);
  EXPECT_EQ(two[0].bytes, (ByteRange{0, 320}));
  EXPECT_EQ(two[0].checksums.size(), 2);
  EXPECT_EQ(two[1].part, 1);
  EXPECT_EQ(two[1].n_parts, 2);
  const auto one = in_larger_parts(layout, 480).tensors;
  ASSERT_EQ(one.size(), 1);
  EXPECT_EQ(one[0].name, "up[0:30]");
  EXPECT_EQ(one[0].n_parts, 1);
}

TEST(InLargerParts, KeepsWhatDoesNot) {
  const std::vector<PlacedTensor> contiguous{part_of(0, 2, 0), part_of(1, 2, 160)};
  const auto n_parts_after = [&](auto&& change) {
    WeightLayout layout{.paths = {"a", "b"}, .tensors = contiguous};
    change(layout.tensors[1]);
    return in_larger_parts(layout, kGiB).tensors.size();
  };
  EXPECT_EQ(n_parts_after([](PlacedTensor&) {}), 1);
  EXPECT_EQ(n_parts_after([](PlacedTensor& part) { part.bytes.offset += 64; }), 2);
  EXPECT_EQ(n_parts_after([](PlacedTensor& part) { part.file = 1; }), 2);
  EXPECT_EQ(n_parts_after([](PlacedTensor& part) { part.layer = 4; }), 2);
  EXPECT_EQ(n_parts_after([](PlacedTensor& part) { part.role = TensorRole::ffn_gate; }), 2);
  EXPECT_EQ(n_parts_after([](PlacedTensor& part) { part.checksums.clear(); }), 2);
  EXPECT_EQ(n_parts_after([](PlacedTensor& part) { part.part = 0; }), 2);  // another matrix
  EXPECT_EQ(
      n_parts_after([](PlacedTensor& part) { part.buffer_type = ggml_backend_cpu_buffer_type(); }),
      2);
}

// Parts are a small part of a budget.
constexpr Bytes kAmple = 4 * kGiB;

// One layer with matrices of 36 MiB.
class WideModel : public testing::Test {
 protected:
  WideModel() {
    model::SynthOptions options;
    options.n_layer = 1;
    options.n_embd = 512;
    options.n_ff = 36864;
    options.mixture = "F16";
    EXPECT_TRUE(model::synthesize(options, path_));
    model_.emplace(model::ModelFile::open(path_).value());
    layout_ = gguf_layout(*model_, {.layers = {0}});
    for (PlacedTensor& tensor : layout_.tensors) {
      std::vector<std::byte> bytes(tensor.bytes.size);
      EXPECT_TRUE(MappedFile::open(path_).value()->read(tensor.bytes, bytes.data()));
      Checksum checksum;
      checksum.add(bytes);
      tensor.checksums = {{bytes.size(), checksum.value()}};
    }
  }

  static Status use(StreamedWeights& weights, TensorRole role) {
    for (const ggml_tensor* part : weights.parts(role, 0)) {
      const auto stage = weights.streamed_stage(part);
      PRIMA_RETURN_IF_ERROR(weights.acquire(*stage));
      weights.release(*stage);
    }
    return {};
  }

  model::TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / "model.gguf";
  std::optional<model::ModelFile> model_;
  WeightLayout layout_;
};

TEST_F(WideModel, IsInLargerPartsWhereAllFits) {
  for (const bool fits : {false, true}) {
    const auto weights = StreamedWeights::open(layout_).value();
    ASSERT_EQ(weights->parts(TensorRole::ffn_up, 0).size(), 3);
    ASSERT_TRUE(weights->start(fits ? kAmple : weights->full_budget() - 1));
    const auto parts = weights->parts(TensorRole::ffn_up, 0);
    ASSERT_EQ(parts.size(), fits ? 1 : 3);
    std::int64_t rows = 0;
    for (const ggml_tensor* part : parts) rows += part->ne[1];
    EXPECT_EQ(rows, 36864);
    EXPECT_TRUE(use(*weights, TensorRole::ffn_up));
    EXPECT_TRUE(use(*weights, TensorRole::ffn_down));
  }
}

TEST_F(WideModel, IsInSmallPartsWhereTheBudgetIsSmall) {
  const auto weights = StreamedWeights::open(layout_).value();
  ASSERT_TRUE(weights->start(weights->full_budget()));
  EXPECT_EQ(weights->parts(TensorRole::ffn_up, 0).size(), 3);
  EXPECT_TRUE(use(*weights, TensorRole::ffn_up));
}

TEST_F(WideModel, ADamagedRunOfAPartIsNoticed) {
  for (PlacedTensor& tensor : layout_.tensors) {
    if (tensor.role == TensorRole::ffn_up && tensor.part == 1) ++tensor.checksums[0].checksum;
  }
  const auto weights = StreamedWeights::open(layout_).value();
  const Status started = weights->start(kAmple);  // all are resident
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code, ErrorCode::corrupt);
  EXPECT_NE(started.error().message().find("ffn_up"), std::string::npos);
}

}  // namespace
}  // namespace prima::weights

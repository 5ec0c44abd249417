#include "plan/model_shape.h"

#include <gtest/gtest.h>

namespace prima::plan {
namespace {

ModelShape two_layers() {
  ModelShape shape;
  shape.name = "two";
  shape.n_embd = 64;
  LayerClass dense;
  dense.dense_bytes = 100;
  dense.kv_bytes_per_token = 4;
  LayerClass experts;
  experts.dense_bytes = 20;
  experts.expert_bytes = 10;
  experts.n_expert = 8;
  experts.n_expert_used = 2;
  experts.kv_bytes_per_token = 4;
  experts.window_tokens = 16;
  shape.classes = {dense, experts};
  shape.layers = {0, 1};
  shape.output_bytes = 7;
  return shape;
}

TEST(ModelShape, CountsAllExpertsAsWeightsAndTheExpectedOnesAsReads) {
  const ModelShape shape = two_layers();
  ASSERT_TRUE(validate(shape));
  EXPECT_EQ(weight_bytes(shape), 100u + 100 + 7);
  EXPECT_DOUBLE_EQ(expected_read_bytes(shape.classes[1], 1), 20 + 80 * 0.25);
  EXPECT_DOUBLE_EQ(expected_read_bytes(shape.classes[1], 2), 20 + 80 * (1 - 0.75 * 0.75));
  EXPECT_DOUBLE_EQ(expected_read_bytes(shape.classes[0], 5), 100);
}

TEST(ModelShape, KeepsNoMoreCellsThanASlidingWindow) {
  const ModelShape shape = two_layers();
  EXPECT_EQ(kv_bytes(shape, 100), 4u * 100 + 4 * 16);
  EXPECT_EQ(kv_bytes(shape, 8), 4u * 8 + 4 * 8);
}

TEST(ModelShape, RefusesWhatCannotBe) {
  const auto refused = [](auto change) {
    ModelShape shape = two_layers();
    change(shape);
    const Status status = validate(shape);
    return !status && status.error().code == ErrorCode::invalid_argument;
  };
  EXPECT_TRUE(refused([](ModelShape& shape) { shape.layers.clear(); }));
  EXPECT_TRUE(refused([](ModelShape& shape) { shape.layers.push_back(2); }));
  EXPECT_TRUE(refused([](ModelShape& shape) { shape.n_embd = 0; }));
  EXPECT_TRUE(refused([](ModelShape& shape) { shape.classes[1].n_expert_used = 9; }));
  EXPECT_TRUE(refused([](ModelShape& shape) { shape.classes[1].n_expert = 0; }));
  EXPECT_TRUE(refused([](ModelShape& shape) { shape.classes[0].dense_bytes = 0; }));
}

}  // namespace
}  // namespace prima::plan

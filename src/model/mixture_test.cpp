#include "model/mixture.h"

#include <map>

#include <gtest/gtest.h>

#include "model/tensor_layout.h"

namespace prima::model {
namespace {

// A Llama 3 8B.
Hyperparameters llama3_8b() {
  Hyperparameters model;
  model.architecture = find_architecture("llama");
  model.n_layer = 32;
  model.n_embd = 4096;
  model.n_vocab = 128256;
  model.n_head = 32;
  model.n_head_kv = 8;
  model.head_dim = 128;
  model.n_ff = 14336;
  model.rope.n_rot = 128;
  return model;
}

std::map<ggml_type, int> count_types(const Hyperparameters& model, std::string_view name,
                                     bool pure = false) {
  const auto mixture = parse_mixture(name, pure);
  EXPECT_TRUE(mixture) << name;
  std::map<ggml_type, int> counts;
  for (const ExpectedTensor& expected : expected_tensors(model)) {
    if (!expected.required && expected.role != TensorRole::output) continue;
    counts[tensor_type(*mixture, model, expected.role, expected.layer, expected.shape[0], false)]++;
  }
  return counts;
}

using Counts = std::map<ggml_type, int>;

// The counts that the files people download have (llama.cpp prints them when loading).
TEST(Mixture, OfLlama3AsPeopleDownloadIt) {
  const Hyperparameters model = llama3_8b();
  EXPECT_EQ(count_types(model, "Q4_K_M"),
            (Counts{{GGML_TYPE_F32, 65}, {GGML_TYPE_Q4_K, 193}, {GGML_TYPE_Q6_K, 33}}));
  EXPECT_EQ(
      count_types(model, "Q4_K_S"),
      (Counts{
          {GGML_TYPE_F32, 65}, {GGML_TYPE_Q4_K, 217}, {GGML_TYPE_Q5_K, 8}, {GGML_TYPE_Q6_K, 1}}));
  EXPECT_EQ(count_types(model, "Q5_K_M"),
            (Counts{{GGML_TYPE_F32, 65}, {GGML_TYPE_Q5_K, 193}, {GGML_TYPE_Q6_K, 33}}));
  EXPECT_EQ(count_types(model, "Q8_0"), (Counts{{GGML_TYPE_F32, 65}, {GGML_TYPE_Q8_0, 226}}));
  EXPECT_EQ(count_types(model, "Q3_K_M"), (Counts{{GGML_TYPE_F32, 65},
                                                  {GGML_TYPE_Q3_K, 129},
                                                  {GGML_TYPE_Q4_K, 92},
                                                  {GGML_TYPE_Q5_K, 4},
                                                  {GGML_TYPE_Q6_K, 1}}));
  EXPECT_EQ(count_types(model, "Q2_K"), (Counts{{GGML_TYPE_F32, 65},
                                                {GGML_TYPE_Q2_K, 129},
                                                {GGML_TYPE_Q3_K, 64},
                                                {GGML_TYPE_Q4_K, 32},
                                                {GGML_TYPE_Q6_K, 1}}));
}

TEST(Mixture, OfOneTypeThroughout) {
  const Hyperparameters model = llama3_8b();
  EXPECT_EQ(count_types(model, "Q4_K"), (Counts{{GGML_TYPE_F32, 65}, {GGML_TYPE_Q4_K, 226}}));
  EXPECT_EQ(count_types(model, "q2_k", true), (Counts{{GGML_TYPE_F32, 65}, {GGML_TYPE_Q2_K, 226}}));
  EXPECT_EQ(count_types(model, "BF16"), (Counts{{GGML_TYPE_F32, 65}, {GGML_TYPE_BF16, 226}}));
}

TEST(Mixture, FallsBackWhereBlocksDoNotFit) {
  const Hyperparameters model = llama3_8b();
  const auto type = [&](const char* name, std::int64_t columns) {
    return tensor_type(*parse_mixture(name, true), model, TensorRole::ffn_up, 20, columns, false);
  };
  EXPECT_EQ(type("Q4_K", 256), GGML_TYPE_Q4_K);
  EXPECT_EQ(type("Q4_K", 96), GGML_TYPE_Q5_0);
  EXPECT_EQ(type("Q6_K", 96), GGML_TYPE_Q8_0);
  EXPECT_EQ(type("IQ2_XXS", 96), GGML_TYPE_IQ4_NL);
  EXPECT_EQ(type("Q4_0", 40), GGML_TYPE_F16);
  EXPECT_EQ(type("F32", 7), GGML_TYPE_F32);
}

TEST(Mixture, GivesATiedEmbeddingTheOutputLayersType) {
  const Hyperparameters model = llama3_8b();
  const auto mixture = parse_mixture("Q4_K_M", false);
  EXPECT_EQ(tensor_type(*mixture, model, TensorRole::token_embedding, -1, 4096, true),
            GGML_TYPE_Q6_K);
  EXPECT_EQ(tensor_type(*mixture, model, TensorRole::token_embedding, -1, 4096, false),
            GGML_TYPE_Q4_K);
}

TEST(Mixture, RefusesOtherNames) {
  for (const char* name : {"", "Q4_K_X", "I32", "F64", "Q8_K", "DEPRECATED"}) {
    EXPECT_FALSE(parse_mixture(name, false)) << name;
  }
  EXPECT_FALSE(parse_mixture("Q4_K_M", true));
}

}  // namespace
}  // namespace prima::model

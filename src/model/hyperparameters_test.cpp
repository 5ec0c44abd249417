#include "model/hyperparameters.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/testing/tiny_gguf.h"

namespace prima::model {
namespace {

using testing::HasSubstr;

Hyperparameters good(const Metadata& metadata) {
  const auto model = read_hyperparameters("tiny.gguf", metadata);
  EXPECT_TRUE(model) << model.error().message();
  return model ? *model : Hyperparameters();
}

void expect_error(const Metadata& metadata, ErrorCode code, const std::string& what) {
  const auto model = read_hyperparameters("tiny.gguf", metadata);
  ASSERT_FALSE(model) << "expected: " << what;
  EXPECT_EQ(model.error().code, code) << model.error().message();
  EXPECT_THAT(model.error().what, HasSubstr("tiny.gguf"));
  EXPECT_THAT(model.error().what, HasSubstr(what));
  EXPECT_FALSE(model.error().remedy.empty());
}

MetadataArray list(std::vector<std::uint64_t> values) { return MetadataArray(std::move(values)); }

TEST(Hyperparameters, OfEveryArchitecture) {
  for (const Architecture& architecture : architectures()) {
    const Hyperparameters model = good(tiny_metadata(std::string(architecture.name)));
    EXPECT_EQ(model.architecture, &architecture);
    EXPECT_EQ(model.n_layer, 2u);
    EXPECT_EQ(model.n_ctx_train, 64u);
    EXPECT_EQ(model.n_embd, 8u);
    EXPECT_EQ(model.n_vocab, kSmallestVocabulary);
    EXPECT_EQ(model.n_head, 2u);
    EXPECT_EQ(model.n_head_kv, 1u);
    EXPECT_EQ(model.head_dim, 4u);
    EXPECT_EQ(model.n_embd_q(), 8u);
    EXPECT_EQ(model.n_embd_kv(), 4u);
    EXPECT_FLOAT_EQ(model.rms_epsilon, 1e-5f);
    EXPECT_FLOAT_EQ(model.attention_scale, 0.5f);
    EXPECT_FLOAT_EQ(model.expert_weights_scale, 1.0f);
    EXPECT_EQ(model.rope.n_rot, 4u);
    EXPECT_FLOAT_EQ(model.rope.frequency_base, 10000.0f);
    EXPECT_EQ(model.rope.scaling, RopeScaling::none);
    EXPECT_FLOAT_EQ(model.rope.frequency_scale, 1.0f);
    EXPECT_EQ(model.rope.n_ctx_original, 64u);
    EXPECT_EQ(model.n_swa, 0u);
    EXPECT_EQ(model.n_ff, architecture.needs_experts ? 0u : 16u);
    EXPECT_EQ(model.n_expert, architecture.needs_experts ? 4u : 0u);
    EXPECT_EQ(model.n_ff_expert, architecture.needs_experts ? 12u : 0u);
  }
}

TEST(Hyperparameters, RefuseUnknownArchitectures) {
  Metadata metadata = tiny_metadata();
  metadata.set("general.architecture", std::string("mamba"));
  expect_error(metadata, ErrorCode::unsupported, "'mamba'");
  metadata.erase("general.architecture");
  expect_error(metadata, ErrorCode::corrupt, "general.architecture is missing");
}

TEST(Hyperparameters, RefuseMissingOnes) {
  for (const char* key : {"llama.context_length", "llama.embedding_length", "llama.block_count",
                          "llama.feed_forward_length", "llama.attention.head_count",
                          "llama.attention.layer_norm_rms_epsilon", "tokenizer.ggml.tokens"}) {
    Metadata metadata = tiny_metadata();
    metadata.erase(key);
    expect_error(metadata, ErrorCode::corrupt, key);
  }
}

TEST(Hyperparameters, RefuseAbsurdOnes) {
  const std::pair<const char*, std::uint64_t> cases[] = {
      {"llama.context_length", 0},
      {"llama.context_length", 1ull << 40},
      {"llama.embedding_length", 0},
      {"llama.embedding_length", 1ull << 32},
      {"llama.block_count", 0},
      {"llama.block_count", 513},
      {"llama.feed_forward_length", 1ull << 62},
      {"llama.attention.head_count", 0},
      {"llama.attention.head_count", 16},
      {"llama.attention.head_count_kv", 0},
      {"llama.attention.head_count_kv", 3},
      {"llama.attention.key_length", 1ull << 24},
      {"llama.rope.dimension_count", 3},
      {"llama.rope.dimension_count", 2},
      {"llama.expert_count", 1025},
      {"llama.expert_used_count", 1},
  };
  for (const auto& [key, value] : cases) {
    Metadata metadata = tiny_metadata();
    metadata.set(key, value);
    const auto model = read_hyperparameters("tiny.gguf", metadata);
    ASSERT_FALSE(model) << key << " " << value;
    EXPECT_THAT(model.error().what, HasSubstr("llama."));
  }
  for (const double epsilon : {-1.0, 2.0, std::nan(""), HUGE_VAL}) {
    Metadata metadata = tiny_metadata();
    metadata.set("llama.attention.layer_norm_rms_epsilon", epsilon);
    expect_error(metadata, ErrorCode::corrupt, "rms_epsilon");
  }
  for (const double base : {0.0, -1.0, std::nan("")}) {
    Metadata metadata = tiny_metadata();
    metadata.set("llama.rope.freq_base", base);
    expect_error(metadata, ErrorCode::corrupt, "rope.freq_base");
  }
  Metadata metadata = tiny_metadata();
  metadata.set("llama.block_count", std::string("two"));
  expect_error(metadata, ErrorCode::corrupt, "not a whole number");
}

TEST(Hyperparameters, AcceptListsOfEqualNumbersOnly) {
  Metadata metadata = tiny_metadata();
  metadata.set("llama.attention.head_count", list({2, 2}));
  metadata.set("llama.attention.head_count_kv", list({1, 1}));
  metadata.set("llama.feed_forward_length", list({16, 16}));
  EXPECT_EQ(good(metadata).n_head, 2u);
  EXPECT_EQ(good(metadata).n_ff, 16u);

  metadata.set("llama.feed_forward_length", list({16, 24}));
  expect_error(metadata, ErrorCode::unsupported, "differs between layers (16 and 24)");
  metadata.set("llama.feed_forward_length", list({16, 16, 16}));
  expect_error(metadata, ErrorCode::corrupt, "feed_forward_length");
  metadata.set("llama.feed_forward_length", list({}));
  expect_error(metadata, ErrorCode::corrupt, "feed_forward_length");
}

TEST(Hyperparameters, RefuseWhatTheForwardPassDoesNotDo) {
  const std::pair<const char*, std::uint64_t> cases[] = {
      {"llama.attention.value_length", 2},
      {"llama.attention.key_length_swa", 2},
      {"llama.rope.dimension_count_swa", 2},
      {"llama.nextn_predict_layers", 1},
  };
  for (const auto& [key, value] : cases) {
    Metadata metadata = tiny_metadata();
    metadata.set(key, value);
    expect_error(metadata, ErrorCode::unsupported, key);
  }
  Metadata metadata = tiny_metadata();
  metadata.set("llama.attention.causal", false);
  expect_error(metadata, ErrorCode::unsupported, "attention.causal");
  metadata = tiny_metadata("qwen2");
  metadata.set("qwen2.expert_count", std::uint64_t{4});
  expect_error(metadata, ErrorCode::unsupported, "expert_count");
}

TEST(Hyperparameters, OfExperts) {
  Metadata metadata = tiny_metadata();  // Mixtral
  metadata.set("llama.expert_count", std::uint64_t{8});
  metadata.set("llama.expert_used_count", std::uint64_t{2});
  Hyperparameters model = good(metadata);
  EXPECT_EQ(model.n_expert, 8u);
  EXPECT_EQ(model.n_expert_used, 2u);
  EXPECT_EQ(model.n_ff_expert, 16u);
  EXPECT_EQ(model.n_ff, 0u);
  metadata.set("llama.expert_used_count", std::uint64_t{9});
  expect_error(metadata, ErrorCode::corrupt, "expert_used_count");
  metadata.set("llama.expert_used_count", std::uint64_t{2});
  metadata.set("llama.expert_group_count", std::uint64_t{2});
  expect_error(metadata, ErrorCode::unsupported, "expert_group_count");

  metadata = tiny_metadata("qwen3moe");
  metadata.erase("qwen3moe.expert_feed_forward_length");
  EXPECT_EQ(good(metadata).n_ff_expert, 8u);  // feed-forward length over experts used
  metadata.erase("qwen3moe.expert_count");
  expect_error(metadata, ErrorCode::corrupt, "expert_count");
}

TEST(Hyperparameters, OfRopeScaling) {
  Metadata metadata = tiny_metadata();
  metadata.set("llama.rope.scaling.factor", 4.0);
  EXPECT_EQ(good(metadata).rope.scaling, RopeScaling::linear);
  EXPECT_FLOAT_EQ(good(metadata).rope.frequency_scale, 0.25f);
  metadata.set("llama.rope.scaling.type", std::string("none"));
  EXPECT_FLOAT_EQ(good(metadata).rope.frequency_scale, 1.0f);
  metadata.set("llama.rope.scaling.type", std::string("su"));
  expect_error(metadata, ErrorCode::unsupported, "rope.scaling.type");

  metadata = tiny_metadata();  // the old key
  metadata.set("llama.rope.scale_linear", 2.0);
  EXPECT_FLOAT_EQ(good(metadata).rope.frequency_scale, 0.5f);

  metadata = tiny_metadata();
  metadata.set("llama.rope.scaling.type", std::string("yarn"));
  metadata.set("llama.rope.scaling.factor", 4.0);
  metadata.set("llama.rope.scaling.original_context_length", std::uint64_t{16});
  const Rope rope = good(metadata).rope;
  EXPECT_EQ(rope.scaling, RopeScaling::yarn);
  EXPECT_FLOAT_EQ(rope.yarn_ext_factor, 1.0f);
  EXPECT_FLOAT_EQ(rope.yarn_beta_fast, 32.0f);
  EXPECT_FLOAT_EQ(rope.yarn_beta_slow, 1.0f);
  EXPECT_FLOAT_EQ(rope.attention_factor, 1.0f);  // ggml applies YaRN's own
  EXPECT_EQ(rope.n_ctx_original, 16u);

  metadata = tiny_metadata("phi3");
  metadata.set("phi3.rope.scaling.attn_factor", 1.19);
  metadata.set("phi3.rope.dimension_count", std::uint64_t{2});
  metadata.set("phi3.attention.sliding_window", std::uint64_t{16});
  EXPECT_FLOAT_EQ(good(metadata).rope.attention_factor, 1.19f);
  EXPECT_EQ(good(metadata).rope.n_rot, 2u);
  EXPECT_EQ(good(metadata).n_swa, 0u);
}

TEST(Hyperparameters, OfSlidingWindows) {
  Metadata metadata = tiny_metadata("gemma3");
  metadata.set("gemma3.block_count", std::uint64_t{8});
  metadata.set("gemma3.attention.sliding_window", std::uint64_t{32});
  metadata.set("gemma3.rope.freq_base", 1e6);
  Hyperparameters model = good(metadata);
  EXPECT_EQ(model.n_swa, 32u);
  for (std::uint32_t layer = 0; layer < 8; ++layer) {
    EXPECT_EQ(model.has_sliding_window(layer), layer % 6 < 5) << layer;
  }
  EXPECT_FLOAT_EQ(model.rope.frequency_base, 1e6f);
  EXPECT_FLOAT_EQ(model.rope.frequency_base_windowed, 10000.0f);

  const std::string key = "gemma3.attention.sliding_window_pattern";
  metadata.set(key, std::uint64_t{3});
  EXPECT_EQ(good(metadata).swa_period, 3u);
  metadata.set(key, std::uint64_t{0});
  for (std::uint32_t layer = 0; layer < 8; ++layer) {
    EXPECT_TRUE(good(metadata).has_sliding_window(layer)) << layer;
  }
  const std::vector<bool> pattern{true, true, true, false, true, true, true, false};
  metadata.set(key, MetadataArray(pattern));
  for (std::uint32_t layer = 0; layer < 8; ++layer) {
    EXPECT_EQ(good(metadata).has_sliding_window(layer), pattern[layer]) << layer;
  }
  metadata.set(key, MetadataArray(std::vector<bool>(8, false)));
  EXPECT_FALSE(good(metadata).has_sliding_window(0));
  metadata.set(key,
               MetadataArray(std::vector<bool>{true, false, false, true, true, true, true, true}));
  expect_error(metadata, ErrorCode::unsupported, "irregular");
  metadata.set(key, MetadataArray(std::vector<bool>{true, false}));
  expect_error(metadata, ErrorCode::corrupt, "2 elements for 8 layers");
}

TEST(Hyperparameters, OfGemma3By27Billion) {
  Metadata metadata = tiny_metadata("gemma3");
  metadata.set("gemma3.attention.key_length", std::uint64_t{16});
  metadata.set("gemma3.attention.value_length", std::uint64_t{16});
  EXPECT_FLOAT_EQ(good(metadata).attention_scale, 0.25f);
  metadata.set("gemma3.block_count", std::uint64_t{62});
  EXPECT_FLOAT_EQ(good(metadata).attention_scale, 0.5f);  // 8 / 2 heads
  metadata.set("gemma3.final_logit_softcapping", 30.0);
  EXPECT_FLOAT_EQ(good(metadata).final_logit_softcap, 30.0f);
}

}  // namespace
}  // namespace prima::model

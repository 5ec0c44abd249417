#include "model/tokenizer_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/testing/tiny_gguf.h"

namespace prima::model {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr const char* kTokens = "tokenizer.ggml.tokens";

void expect_error(const Metadata& metadata, ErrorCode code, const std::string& what) {
  const auto status = check_tokenizer("tiny.gguf", metadata);
  ASSERT_FALSE(status) << "expected: " << what;
  EXPECT_EQ(status.error().code, code) << status.error().message();
  EXPECT_THAT(status.error().what, AllOf(HasSubstr("tiny.gguf"), HasSubstr(what)));
  EXPECT_FALSE(status.error().remedy.empty());
}

void expect_corrupt(const Metadata& metadata, const std::string& what) {
  expect_error(metadata, ErrorCode::corrupt, what);
}

void expect_good(const Metadata& metadata) {
  const auto status = check_tokenizer("tiny.gguf", metadata);
  EXPECT_TRUE(status) << status.error().message();
}

std::vector<std::string> tokens_of(const Metadata& metadata) {
  return *metadata.find_strings(kTokens);
}

Metadata bpe() {
  Metadata metadata;
  metadata.set("tokenizer.ggml.model", std::string("gpt2"));
  metadata.set("tokenizer.ggml.pre", std::string("qwen2"));
  metadata.set(kTokens, MetadataArray(std::vector<std::string>{"a", "b", "ab"}));
  metadata.set("tokenizer.ggml.merges", MetadataArray(std::vector<std::string>{"a b"}));
  metadata.set("tokenizer.ggml.eos_token_id", std::uint64_t{2});
  return metadata;
}

TEST(TokenizerCheck, AcceptsGoodOnes) {
  expect_good(tiny_metadata());
  expect_good(bpe());
}

TEST(TokenizerCheck, RefusesDuplicateTokensNamingBoth) {
  Metadata metadata = tiny_metadata();
  auto tokens = tokens_of(metadata);
  tokens[7] = tokens[5];
  metadata.set(kTokens, MetadataArray(tokens));
  expect_corrupt(metadata, "same text for tokens 5 and 7");

  // llama.cpp renames empty tokens, which can make a duplicate too.
  metadata = bpe();
  metadata.set(kTokens, MetadataArray(std::vector<std::string>{"a", "", "[EMPTY_1]"}));
  expect_corrupt(metadata, "same text for tokens 1 and 2");
}

TEST(TokenizerCheck, RefusesListsOfOtherLengths) {
  Metadata metadata = tiny_metadata();
  metadata.set("tokenizer.ggml.scores", MetadataArray(std::vector<double>{0.0}));
  expect_corrupt(metadata, "tokenizer.ggml.scores has 1 elements for 260 tokens");
  metadata = tiny_metadata();
  metadata.set("tokenizer.ggml.token_type", MetadataArray(std::vector<std::int64_t>(261, 1)));
  expect_corrupt(metadata, "tokenizer.ggml.token_type has 261 elements for 260 tokens");
}

TEST(TokenizerCheck, RefusesOtherTypes) {
  const std::pair<const char*, MetadataValue> cases[] = {
      {kTokens, std::string("abc")},
      {"tokenizer.ggml.model", true},
      {"tokenizer.ggml.scores", MetadataArray(std::vector<std::string>{"1"})},
      {"tokenizer.ggml.token_type", MetadataArray(std::vector<double>{1.0})},
      {"tokenizer.ggml.bos_token_id", std::int64_t{1}},
      {"tokenizer.ggml.add_bos_token", std::uint64_t{1}},
      {"tokenizer.ggml.merges", MetadataArray(std::vector<std::int64_t>{1})},
      {"tokenizer.chat_template", true},
      {"general.name", std::uint64_t{3}},
  };
  for (const auto& [key, value] : cases) {
    Metadata metadata = tiny_metadata();
    metadata.set(key, value);
    expect_corrupt(metadata, key);
  }
}

TEST(TokenizerCheck, RefusesMissingParts) {
  Metadata metadata = tiny_metadata();
  metadata.erase("tokenizer.ggml.model");
  expect_corrupt(metadata, "tokenizer.ggml.model is missing");
  metadata = tiny_metadata();
  metadata.erase(kTokens);
  expect_corrupt(metadata, "tokenizer.ggml.tokens is missing");
  metadata = bpe();
  metadata.erase("tokenizer.ggml.merges");
  expect_corrupt(metadata, "tokenizer.ggml.merges is missing");
  metadata = tiny_metadata();
  metadata.set("tokenizer.ggml.model", std::string("rwkv"));
  expect_error(metadata, ErrorCode::unsupported, "'rwkv'");
}

TEST(TokenizerCheck, RefusesSpecialTokensOutsideTheVocabulary) {
  for (const char* key : {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                          "tokenizer.ggml.eot_token_id", "tokenizer.ggml.unknown_token_id"}) {
    Metadata metadata = tiny_metadata();
    metadata.set(key, std::uint64_t{260});
    expect_corrupt(metadata, key);
  }
  // Padding is never generated, and real models have it wrong.
  Metadata metadata = tiny_metadata();
  metadata.set("tokenizer.ggml.padding_token_id", std::uint64_t{4000000000});
  expect_good(metadata);
}

TEST(TokenizerCheck, RefusesAddingTokensThatThereAreNot) {
  Metadata metadata = bpe();  // the default for BPE, 11, is outside this vocabulary
  metadata.set("tokenizer.ggml.add_bos_token", true);
  expect_corrupt(metadata, "tokenizer.ggml.bos_token_id is missing");
  metadata = bpe();
  metadata.set("tokenizer.ggml.pre", std::string("llama-bpe"));
  expect_corrupt(metadata, "tokenizer.ggml.bos_token_id is missing");
  metadata.set("tokenizer.ggml.bos_token_id", std::uint64_t{0});
  expect_good(metadata);
  metadata = bpe();
  metadata.erase("tokenizer.ggml.eos_token_id");
  metadata.set("tokenizer.ggml.add_eos_token", true);
  expect_corrupt(metadata, "tokenizer.ggml.eos_token_id is missing");
}

TEST(TokenizerCheck, RefusesVocabulariesThatCannotWriteEveryByte) {
  Metadata metadata = tiny_metadata();
  auto tokens = tokens_of(metadata);
  tokens[3 + 0x41] = "something";
  metadata.set(kTokens, MetadataArray(tokens));
  expect_corrupt(metadata, "byte token 68");
  metadata.erase("tokenizer.ggml.token_type");
  expect_corrupt(metadata, "no token for byte 0x41");
  tokens[3 + 0x41] = "A";
  metadata.set(kTokens, MetadataArray(tokens));
  expect_good(metadata);
}

TEST(TokenizerCheck, RefusesModelsNamedPhi3WithoutItsTokens) {
  Metadata metadata = tiny_metadata();
  metadata.set("general.name", std::string("My Phi-3 tune"));
  expect_corrupt(metadata, "<|endoftext|>");
  auto tokens = tokens_of(metadata);
  tokens.back() = "<|endoftext|>";
  metadata.set(kTokens, MetadataArray(tokens));
  expect_good(metadata);
}

}  // namespace
}  // namespace prima::model

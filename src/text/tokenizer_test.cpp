#include "text/tokenizer.h"

#include <filesystem>
#include <fstream>

#include <gguf.h>
#include <gtest/gtest.h>

#include "text/test_vocabulary.h"

namespace prima::text {
namespace {

class TokenizerTest : public testing::Test {
 protected:
  TestVocabulary vocabulary;
  Tokenizer tokenizer = Tokenizer::load(vocabulary.path()).value();
};

TEST_F(TokenizerTest, ReadsTheVocabulary) {
  EXPECT_EQ(tokenizer.n_vocab(), vocabulary.size());
  EXPECT_TRUE(tokenizer.adds_bos());
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_EQ(tokenizer.eos(), 2);
  EXPECT_TRUE(tokenizer.is_end_of_generation(2));
  EXPECT_TRUE(tokenizer.is_end_of_generation(vocabulary.token("<|im_end|>")));
  EXPECT_FALSE(tokenizer.is_end_of_generation(vocabulary.token("hello")));
}

TEST_F(TokenizerTest, MergesWordsAndAddsBosOnlyIfAsked) {
  const Token hello = vocabulary.token("hello");
  const Token space = vocabulary.token("\xE2\x96\x81");
  EXPECT_EQ(tokenizer.tokenize("hello", true, SpecialTokens::as_text).value(),
            (std::vector<Token>{1, space, hello}));
  EXPECT_EQ(tokenizer.tokenize("hello", false, SpecialTokens::as_text).value(),
            (std::vector<Token>{space, hello}));
  EXPECT_TRUE(tokenizer.tokenize("", false, SpecialTokens::as_text).value().empty());
}

TEST_F(TokenizerTest, ReadsSpecialTokensOnlyWhereAsked) {
  const auto parsed = tokenizer.tokenize("<|im_end|>", false, SpecialTokens::parsed).value();
  EXPECT_EQ(parsed, (std::vector<Token>{vocabulary.token("<|im_end|>")}));
  const auto text = tokenizer.tokenize("<|im_end|>", false, SpecialTokens::as_text).value();
  EXPECT_EQ(std::count(text.begin(), text.end(), vocabulary.token("<|im_end|>")), 0);
  EXPECT_EQ(tokenizer.detokenize(text), " <|im_end|>");
}

TEST_F(TokenizerTest, TextComesBack) {
  const std::string text =
      " hello world, gr\xC3\xBC\xC3\x9F"
      "e \xF0\x9F\x99\x82!";
  const auto tokens = tokenizer.tokenize(text, false, SpecialTokens::as_text).value();
  EXPECT_EQ(tokenizer.detokenize(tokens), " " + text);  // SentencePiece's leading space
}

TEST_F(TokenizerTest, PiecesOfControlTokensShowOnlyWhenRendered) {
  EXPECT_EQ(tokenizer.piece(vocabulary.token("<|im_end|>")), "");
  EXPECT_EQ(tokenizer.piece(vocabulary.token("<|im_end|>"), true), "<|im_end|>");
  EXPECT_EQ(tokenizer.piece(vocabulary.token("<0xC3>")), "\xC3");
}

TEST_F(TokenizerTest, InvalidUtf8IsNoReasonToFail) {
  const auto tokens = tokenizer.tokenize("a\xFF\xC3z", false, SpecialTokens::as_text);
  ASSERT_TRUE(tokens);
  EXPECT_FALSE(tokens->empty());
}

// A vocabulary of the kind whose words llama.cpp finds by std::regex.
std::filesystem::path write_byte_pair_vocabulary(const std::string& name) {
  std::vector<std::string> tokens;
  for (char c = 'a'; c <= 'z'; ++c) tokens.push_back(std::string(1, c));
  tokens.insert(tokens.end(), {"aa", "</s>"});
  std::vector<const char*> texts;
  for (const std::string& token : tokens) texts.push_back(token.c_str());
  const char* merge = "a a";
  const std::vector<std::int32_t> types(tokens.size(), 1);

  gguf_context* file = gguf_init_empty();
  gguf_set_val_str(file, "general.architecture", "llama");
  gguf_set_val_str(file, "tokenizer.ggml.model", "gpt2");
  gguf_set_val_str(file, "tokenizer.ggml.pre", "tekken");
  gguf_set_arr_str(file, "tokenizer.ggml.tokens", texts.data(), texts.size());
  gguf_set_arr_data(file, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types.data(), types.size());
  gguf_set_arr_str(file, "tokenizer.ggml.merges", &merge, 1);
  gguf_set_val_u32(file, "tokenizer.ggml.eos_token_id", 27);
  const std::filesystem::path path = testing::TempDir() + name;
  gguf_write_to_file(file, path.c_str(), /*only_meta=*/true);
  gguf_free(file);
  return path;
}

TEST(TokenizerWords, MayBeVeryLong) {
  const auto path = write_byte_pair_vocabulary("tokenizer_test_words.gguf");
  const auto tokenizer = Tokenizer::load(path).value();
  std::filesystem::remove(path);
  const std::string word(100000, 'a');
  const auto tokens = tokenizer.tokenize(word, false, SpecialTokens::as_text);
  ASSERT_TRUE(tokens) << tokens.error().message();
  EXPECT_EQ(tokenizer.detokenize(*tokens), word);

  const auto refused = tokenizer.tokenize(std::string(2 << 20, 'a'), false, SpecialTokens::as_text);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
}

TEST(TokenizerLoad, NamesTheFileThatIsNoModel) {
  const TestVocabulary vocabulary;
  std::ofstream(vocabulary.path()) << "this is not a model";
  const auto result = Tokenizer::load(vocabulary.path());
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::corrupt);
  EXPECT_NE(result.error().what.find(vocabulary.path().string()), std::string::npos);
}

}  // namespace
}  // namespace prima::text

#include "text/tokenizer.h"

#include <fstream>

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

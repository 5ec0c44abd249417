#include "text/text_stream.h"

#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace prima::text {
namespace {

TEST(TextStream, WithoutStopsPassesTextOn) {
  TextStream stream;
  EXPECT_EQ(stream.push("hello"), "hello");
  EXPECT_EQ(stream.push(" w"), " w");
  EXPECT_EQ(stream.finish(), "");
  EXPECT_FALSE(stream.stopped());
}

TEST(TextStream, NeverSplitsACharacter) {
  TextStream stream;
  EXPECT_EQ(stream.push("\xF0\x9F"), "");
  EXPECT_EQ(stream.push("\x99\x82"), "\xF0\x9F\x99\x82");
  EXPECT_EQ(stream.push("\xC3"), "");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
}

TEST(TextStream, FindsAStopStringAcrossTokens) {
  TextStream stream({"END"});
  EXPECT_EQ(stream.push("some textE"), "some text");
  EXPECT_EQ(stream.push("N"), "");
  EXPECT_EQ(stream.push("D and more"), "");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.push("more"), "");
  EXPECT_EQ(stream.finish(), "");
}

TEST(TextStream, GivesBackWhatOnlyLookedLikeAStop) {
  TextStream stream({"END"});
  EXPECT_EQ(stream.push("xEN"), "x");
  EXPECT_EQ(stream.push("E"), "EN");
  EXPECT_EQ(stream.push("T"), "ET");
  EXPECT_EQ(stream.push("E"), "");
  EXPECT_EQ(stream.finish(), "E");
  EXPECT_FALSE(stream.stopped());
}

TEST(TextStream, TheStopThatBeginsFirstCounts) {
  TextStream stream({"bc", "abcdX"});
  EXPECT_EQ(stream.push("1abc"), "1");  // "bc" is there, but "abcdX" may come
  EXPECT_FALSE(stream.stopped());
  EXPECT_EQ(stream.push("dX"), "");
  EXPECT_TRUE(stream.stopped());

  TextStream other({"bc", "abcdX"});
  EXPECT_EQ(other.push("1abc"), "1");
  EXPECT_EQ(other.push("dY"), "a");
  EXPECT_TRUE(other.stopped());

  TextStream ended({"bc", "abcdX"});
  EXPECT_EQ(ended.push("1abc"), "1");
  EXPECT_EQ(ended.finish(), "a");
  EXPECT_TRUE(ended.stopped());
}

TEST(TextStream, HowTheAnswerIsCutDoesNotMatter) {
  std::mt19937 random(7);
  const std::vector<std::string> stops = {"aba", "bb", "abcab", "\xC3\xA9x"};
  static const std::string kAlphabet[] = {"a", "b", "c", "\xC3\xA9", "x", "\xC3"};
  for (int round = 0; round < 3000; ++round) {
    std::string bytes;
    for (int i = 0; i < 10; ++i) bytes += kAlphabet[random() % std::size(kAlphabet)];

    TextStream whole(stops);
    std::string expected = whole.push(bytes);
    expected += whole.finish();

    TextStream stream(stops);
    std::string text;
    for (std::size_t at = 0; at < bytes.size();) {
      const std::size_t n = 1 + random() % 3;
      text += stream.push(std::string_view(bytes).substr(at, n));
      for (const std::string& stop : stops) ASSERT_EQ(text.find(stop), std::string::npos);
      at += n;
    }
    text += stream.finish();
    ASSERT_EQ(text, expected) << bytes;
    ASSERT_EQ(stream.stopped(), whole.stopped()) << bytes;
  }
}

}  // namespace
}  // namespace prima::text

#include "text/utf8.h"

#include <random>
#include <string>

#include <gtest/gtest.h>

namespace prima::text {
namespace {

constexpr const char* kBad = "\xEF\xBF\xBD";

std::string decode(std::string_view bytes) {
  Utf8Decoder decoder;
  std::string text = decoder.push(bytes);
  return text + decoder.finish();
}

TEST(Utf8Decoder, PassesValidTextThrough) {
  const std::string text = "a \xC3\xA9 \xE2\x82\xAC \xF0\x9F\x99\x82 \xED\x9F\xBF \xF4\x8F\xBF\xBF";
  EXPECT_EQ(decode(text), text);
}

TEST(Utf8Decoder, HoldsBackTheBeginningOfACharacter) {
  Utf8Decoder decoder;
  EXPECT_EQ(decoder.push("a\xF0\x9F"), "a");
  EXPECT_EQ(decoder.push("\x99"), "");
  EXPECT_EQ(decoder.push("\x82z"), "\xF0\x9F\x99\x82z");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(Utf8Decoder, ReplacesWhatCannotBeACharacter) {
  const std::string bad = kBad;
  EXPECT_EQ(decode("\xFF"), bad);
  EXPECT_EQ(decode("a\x80z"), "a" + bad + "z");
  EXPECT_EQ(decode("\xC3("), bad + "(");
  EXPECT_EQ(decode("\xE2\x82"), bad);                            // cut short: one
  EXPECT_EQ(decode("\xC0\xAF"), bad + bad);                      // overlong
  EXPECT_EQ(decode("\xED\xA0\x80"), bad + bad + bad);            // a surrogate
  EXPECT_EQ(decode("\xF4\x90\x80\x80"), bad + bad + bad + bad);  // beyond U+10FFFF
  EXPECT_EQ(decode("\xF0\x9F\x99\xF0\x9F\x99\x82"), bad + "\xF0\x9F\x99\x82");
}

TEST(Utf8Decoder, HowBytesAreCutDoesNotMatter) {
  std::mt19937 random(1);
  static constexpr unsigned char kBytes[] = {'a',  0x80, 0x9F, 0xBF, 0xC3, 0xE0, 0xE2,
                                             0xED, 0xF0, 0xF4, 0xFF, 0x99, 0x82};
  for (int round = 0; round < 2000; ++round) {
    std::string bytes;
    for (unsigned i = 0; i < 12; ++i) {
      bytes += static_cast<char>(kBytes[random() % std::size(kBytes)]);
    }
    Utf8Decoder decoder;
    std::string pieces;
    for (std::size_t at = 0; at < bytes.size();) {
      const std::size_t n = 1 + random() % 4;
      pieces += decoder.push(std::string_view(bytes).substr(at, n));
      at += n;
    }
    pieces += decoder.finish();
    ASSERT_EQ(pieces, decode(bytes));
  }
}

}  // namespace
}  // namespace prima::text

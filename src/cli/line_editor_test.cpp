#include "cli/line_editor.h"

#include <gtest/gtest.h>

namespace prima::cli {
namespace {

// The text after these keys, with | where the cursor is.
std::string typed(std::string_view keys, const std::vector<std::string>& history = {}) {
  EditBuffer buffer(history);
  while (const std::size_t n = key_length(keys)) {
    if (buffer.take(keys.substr(0, n)) != EditBuffer::Outcome::goes_on) break;
    keys.remove_prefix(n);
  }
  std::string text = buffer.text();
  return text.insert(buffer.cursor(), "|");
}

TEST(EditBuffer, MovesAndDeletes) {
  EXPECT_EQ(typed("helo\x1b[Dl"), "hell|o");
  EXPECT_EQ(typed("hello\x1b[H!"), "!|hello");
  EXPECT_EQ(typed("hello\x01!\x05?"), "!hello?|");
  EXPECT_EQ(typed("hello\x7f\x7f"), "hel|");
  EXPECT_EQ(typed("\x7f\x1b[Dx"), "x|");
  EXPECT_EQ(typed("hello\x1b[D\x1b[3~"), "hell|");
  EXPECT_EQ(typed("one two  \x17"), "one |");
  EXPECT_EQ(typed("one two\x15"), "|");
  EXPECT_EQ(typed("one two\x1b[D\x1b[D\x0b"), "one t|");
}

TEST(EditBuffer, KnowsCharactersOfSeveralBytes) {
  EXPECT_EQ(typed("a\xC3\xA9z\x1b[D\x1b[D\x7f"), "|\xC3\xA9z");
  EXPECT_EQ(typed("a\xC3\xA9\x7f"), "a|");
}

TEST(EditBuffer, SeveralLines) {
  EXPECT_EQ(typed("one\\\rtwo"), "one\ntwo|");
  EXPECT_EQ(typed("one\x1b\rtwo\x1b[Hx"), "one\nx|two");
  EXPECT_EQ(typed("\x1b[200~one\rtwo\x1b[201~\rnot"), "one\ntwo|");
  EXPECT_EQ(typed("one\rtwo"), "one|");
}

TEST(EditBuffer, History) {
  const std::vector<std::string> history = {"first", "second"};
  EXPECT_EQ(typed("own\x1b[A", history), "second|");
  EXPECT_EQ(typed("own\x1b[A\x1b[A\x1b[A", history), "first|");
  EXPECT_EQ(typed("own\x1b[A\x1b[A\x1b[B\x1b[B\x1b[B", history), "own|");
}

TEST(EditBuffer, Ends) {
  const std::vector<std::string> none;
  EditBuffer buffer(none);
  EXPECT_EQ(buffer.take("\x04"), EditBuffer::Outcome::ended);
  EXPECT_EQ(buffer.take("x"), EditBuffer::Outcome::goes_on);
  EXPECT_EQ(buffer.take("\x04"), EditBuffer::Outcome::goes_on);  // deletes nothing at the end
  EXPECT_EQ(buffer.take("\x03"), EditBuffer::Outcome::given_up);
  EXPECT_EQ(buffer.take("\r"), EditBuffer::Outcome::entered);
}

TEST(Keys, WaitForAllTheirBytes) {
  EXPECT_EQ(key_length(""), 0u);
  EXPECT_EQ(key_length("\x1b"), 0u);
  EXPECT_EQ(key_length("\x1b["), 0u);
  EXPECT_EQ(key_length("\x1b[200"), 0u);
  EXPECT_EQ(key_length("\x1b[200~x"), 6u);
  EXPECT_EQ(key_length("\xC3"), 0u);
  EXPECT_EQ(key_length("\xC3\xA9x"), 2u);
}

}  // namespace
}  // namespace prima::cli

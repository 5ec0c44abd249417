#include "base/printable.h"

#include <gtest/gtest.h>

namespace prima {
namespace {

TEST(Printable, LeavesNothingThatSteersATerminal) {
  EXPECT_EQ(printable("\x1b[31mred\x07\r\x7f"), "?[31mred???");
  EXPECT_EQ(printable("a\xC2\x9B"
                      "31m"),
            "a??31m");
}

TEST(Printable, KeepsTextAndLines) { EXPECT_EQ(printable("Grüße\n日本"), "Grüße\n日本"); }

}  // namespace
}  // namespace prima

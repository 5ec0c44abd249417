// prima run without a prompt: a conversation on a terminal.
#include <algorithm>
#include <csignal>
#include <string>

#include "run/program.h"
#include "run/synthetic_model.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace prima::test {
namespace {

using testing::HasSubstr;

class ChatTest : public testing::Test {
 protected:
  Arguments arguments(const Arguments& more) const {
    Arguments all = {"run", "-m", model, "--chat-template", chat_template, "--temp", "0"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  // Waits for the n-th line of figures.
  static bool answered(Program& program, std::ptrdiff_t n) {
    return program.wait_for([&program, n] { return count(program.err(), "TTFT") >= n; });
  }

  static std::ptrdiff_t count(const std::string& text, const std::string& part) {
    std::ptrdiff_t n = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
      ++n;
    }
    return n;
  }

  static constexpr const char* kEndOfTransmission = "\x04";  // Ctrl-D, at the beginning of a line

  TemporaryFolder folder;
  std::string model = make_model(folder, "chat.gguf", 1 << 17);
  std::string chat_template =
      folder.file("chat.jinja",
                  "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]");
};

TEST_F(ChatTest, TheSecondTurnReusesTheFirst) {
  Program program(arguments({"-n", "10", "--ignore-eos"}), Program::Input::terminal);
  program.write("hello\n");
  ASSERT_TRUE(answered(program, 1)) << program.err();
  EXPECT_THAT(program.err(), Not(HasSubstr("reused")));
  program.write("again\n");
  ASSERT_TRUE(answered(program, 2)) << program.err();
  EXPECT_THAT(program.err(), HasSubstr("reused"));
  program.write(kEndOfTransmission);
  EXPECT_EQ(program.wait(), 0) << program.err();
  EXPECT_EQ(std::count(program.out().begin(), program.out().end(), '\n') >= 2, true);
}

TEST_F(ChatTest, ResetForgetsTheConversation) {
  Program program(arguments({"-n", "10", "--ignore-eos"}), Program::Input::terminal);
  program.write("hello\n");
  ASSERT_TRUE(answered(program, 1)) << program.err();
  const std::string first = program.out();
  program.write("/reset\nhello\n");
  ASSERT_TRUE(answered(program, 2)) << program.err();
  program.write(kEndOfTransmission);
  EXPECT_EQ(program.wait(), 0);
  EXPECT_EQ(program.out(), first + first);
}

TEST_F(ChatTest, CtrlCEndsTheAnswerAndThenTheChat) {
  Program program(arguments({"-c", "131072", "--ignore-eos"}), Program::Input::terminal);
  program.write("hello\n");
  ASSERT_TRUE(program.wait_for([&] { return program.out().size() > 20; })) << program.err();
  program.send(SIGINT);
  ASSERT_TRUE(answered(program, 1)) << program.err();
  ASSERT_TRUE(program.wait_for([&] { return program.err().ends_with("> "); })) << program.err();
  program.send(SIGINT);
  EXPECT_EQ(program.wait(), 0);
}

TEST_F(ChatTest, AMessageTooLongForTheContextIsLeftOut) {
  Program program(arguments({"-c", "48", "-n", "4", "--ignore-eos"}), Program::Input::terminal);
  program.write(std::string(200, 'x') + "\n");
  ASSERT_TRUE(program.wait_for([&] { return count(program.err(), "left out") == 1; }))
      << program.err();
  program.write("hi\n");
  EXPECT_TRUE(answered(program, 1)) << program.err();
  program.write(kEndOfTransmission);
  EXPECT_EQ(program.wait(), 0);
}

TEST_F(ChatTest, AModelWithoutTemplateCannotChat) {
  Program program({"run", "-m", model}, Program::Input::terminal);
  EXPECT_EQ(program.wait(), 2);
  EXPECT_THAT(program.err(), AllOf(HasSubstr("no chat template"), HasSubstr("-p")));
}

}  // namespace
}  // namespace prima::test

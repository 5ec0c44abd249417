// prima serve, chat, bench and --draft, driven from outside.
#include <csignal>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>

#include "run/program.h"
#include "run/synthetic_model.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace prima::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class ServeTest : public testing::Test {
 protected:
  // What chats remember of their user stays in the test's folder.
  ServeTest() { ::setenv("XDG_STATE_HOME", folder.path().c_str(), 1); }

  // A server on a free port; its address.
  std::string start(const Arguments& more = {}) {
    Arguments arguments = {"serve",       "-m",       model,        "--chat-template",
                           chat_template, "--listen", "127.0.0.1:0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    server.emplace(arguments);
    EXPECT_TRUE(server->wait_for([&] { return server->err().find("Ready") != std::string::npos; }))
        << server->err();
    const std::size_t begin = server->err().find("http://");
    return server->err().substr(begin, server->err().find("/v1") - begin);
  }

  TemporaryFolder folder;
  std::string model = make_model(folder, "served.gguf", 4096);
  std::string chat_template =
      folder.file("chat.jinja",
                  "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]");
  std::optional<Program> server;
};

TEST_F(ServeTest, ChatTalksToAServer) {
  const std::string address = start();
  Program chat({"chat", "--server", address, "-n", "8", "--ignore-eos", "--temp", "0"},
               Program::Input::terminal);
  const auto heard = [&](const std::string& text) {
    return chat.wait_for([&] { return chat.err().find(text) != std::string::npos; });
  };
  ASSERT_TRUE(heard("> ")) << chat.err();
  chat.write("/help\r/stats\r");
  ASSERT_TRUE(heard("Nothing was answered")) << chat.err();
  EXPECT_THAT(chat.err(), HasSubstr("/reset"));
  chat.write("helo\x1b[D\x1b[Dl\r");  // "hello", edited
  ASSERT_TRUE(chat.wait_for([&] { return !chat.out().empty() && chat.out().back() == '\n'; }));
  const std::string first = chat.out();
  chat.write("and\\\rmore\r/stats\r");
  ASSERT_TRUE(heard("Conversation: 2 answers")) << chat.err();
  EXPECT_THAT(chat.err(), HasSubstr(" reused"));
  // The same from the beginning: brought back from the history.
  chat.write("/reset\r\x1b[A\x1b[A\x1b[A\x1b[A\r");
  ASSERT_TRUE(chat.wait_for([&] {
    return chat.out().size() >= 2 * first.size() && chat.out().ends_with(first);
  })) << chat.out()
      << chat.err();
  // Between two prompts the terminal itself takes Ctrl-D. Each prompt turns bracketed paste on.
  ASSERT_TRUE(chat.wait_for([&] {
    const std::string text = chat.err();
    return text.rfind("\x1b[?2004h") > text.rfind("\x1b[?2004l");
  })) << chat.err();
  chat.write("\x04");
  EXPECT_EQ(chat.wait(), 0) << chat.err();
  server->send(SIGTERM);
  EXPECT_EQ(server->wait(), 0) << server->err();
}

TEST_F(ServeTest, ChatWithoutAServerSaysSo) {
  const Outcome outcome = run({"chat", "--server", "http://127.0.0.1:1"}, "hello\n");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.err, HasSubstr("prima serve"));
}

TEST_F(ServeTest, ChatLoadsAModelItself) {
  const Outcome outcome = run({"chat", "-m", model, "--chat-template", chat_template, "-n", "5",
                               "--ignore-eos", "--temp", "0"},
                              "hello\n/stats\n");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_FALSE(outcome.out.empty());
  EXPECT_THAT(outcome.err, HasSubstr("TTFT"));
}

TEST_F(ServeTest, BenchMeasuresUsersAndSomeLeave) {
  const std::string address = start({"--parallel", "4"});
  const std::string report = folder.file("bench.json");
  const Outcome bench =
      run({"bench", "--server", address, "--users", "8", "--requests", "12", "--prompt-words", "10",
           "--tokens", "12", "--leave", "0.33", "--json", report});
  EXPECT_EQ(bench.status, 0) << bench.err << bench.out;
  EXPECT_THAT(bench.out, HasSubstr("TTFT"));
  const json figures = json::parse(read_file(report));
  EXPECT_EQ(figures["finished"].get<int>() + figures["left"].get<int>(), 96);
  EXPECT_GT(figures["left"].get<int>(), 5);
  EXPECT_EQ(figures["failed"], 0);
  EXPECT_GT(figures["tokens_per_second"].get<double>(), 0.0);
  EXPECT_GE(figures["ttft_ms"]["p99"].get<double>(), figures["ttft_ms"]["p50"].get<double>());
}

TEST_F(ServeTest, WhatCannotBeIsSaidBeforeAnythingIsLoaded) {
  EXPECT_THAT(run({"serve", "-m", model, "--listen", "nonsense"}).err, HasSubstr("--listen"));
  EXPECT_THAT(run({"serve", "-m", model, "--kv-cells", "5"}).err, HasSubstr("--kv-cells"));
  EXPECT_THAT(run({"serve", "-m", folder.file("none.gguf")}).err, HasSubstr("none.gguf"));
  start();
  const std::string port = server->err().substr(server->err().find("127.0.0.1:"));
  const Outcome taken = run({"serve", "-m", model, "--listen", port.substr(0, port.find('/'))});
  EXPECT_EQ(taken.status, 1);
  EXPECT_THAT(taken.err, HasSubstr("cannot be listened on"));
}

// ---- Speculative decoding ----------------------------------------------------------------------

class DraftTest : public ServeTest {
 protected:
  Outcome answer(const Arguments& more) {
    Arguments arguments = {
        "run",    "-m", model, "--raw", "-p",          "da di do da di do da di do",
        "--temp", "0",  "-n",  "40",    "--ignore-eos"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome;
  }
};

TEST_F(DraftTest, AnswersAreTheSame) {
  const std::string plain = answer({}).out;
  EXPECT_EQ(answer({"--draft", "ngram"}).out, plain);
  const std::string large = folder.file("large.gguf");
  ASSERT_EQ(run({"model", "synth", "--extend", model, "--layers", "6", "-o", large}).status, 0);
  const std::string small = std::exchange(model, large);
  EXPECT_EQ(answer({}).out, plain);  // the layers added change nothing
  EXPECT_EQ(answer({"--draft", small}).out, plain);
}

TEST_F(DraftTest, AnotherVocabularyIsRefused) {
  const std::string other = folder.file("other.gguf");
  ASSERT_EQ(run({"model", "synth", "--layers", "1", "--vocab", "600", "-o", other}).status, 0);
  const Outcome refused =
      run({"run", "-m", model, "--raw", "-p", "hello", "-n", "5", "--draft", other});
  EXPECT_EQ(refused.status, 2);
  EXPECT_THAT(refused.err, HasSubstr("vocabulary"));
}

}  // namespace
}  // namespace prima::test

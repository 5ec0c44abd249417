// prima run, as scripts use it: what it answers, writes and refuses.
#include <csignal>
#include <filesystem>
#include <string>

#include "run/program.h"
#include "run/synthetic_model.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace prima::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

class RunTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    model_ = make_model(*folder_, "small.gguf");
  }
  static void TearDownTestSuite() { delete folder_; }

  static const TemporaryFolder& folder() { return *folder_; }
  static const std::string& model() { return model_; }

  static Arguments with(const Arguments& arguments) {
    Arguments all = {"run", "-m", model()};
    all.insert(all.end(), arguments.begin(), arguments.end());
    return all;
  }

  static json report_of(const Arguments& arguments, std::string_view input = "") {
    return report_of_all(with(arguments), input);
  }

  // Runs to the end and reads --json's file.
  static json report_of_all(Arguments all, std::string_view input = "") {
    const std::string path = folder().file("report.json");
    all.insert(all.end(), {"--json", path});
    const Outcome outcome = run(all, input);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    const json report = json::parse(read_file(path));
    EXPECT_THAT(outcome.out, StartsWith(report["text"].get<std::string>()));
    std::filesystem::remove(path);
    return report;
  }

 private:
  static inline TemporaryFolder* folder_ = nullptr;
  static inline std::string model_;
};

TEST(Prima, ExplainsItself) {
  const Outcome help = run({"--help"});
  EXPECT_EQ(help.status, 0);
  EXPECT_THAT(help.out, HasSubstr("prima run -m model.gguf"));
  EXPECT_THAT(help.out, HasSubstr("one large language model"));
  const Outcome run_help = run({"run", "--help"});
  EXPECT_EQ(run_help.status, 0);
  EXPECT_THAT(run_help.out, HasSubstr("--top-p"));
  EXPECT_THAT(run_help.out, HasSubstr("Ctrl-C"));
  const Outcome version = run({"--version"});
  EXPECT_EQ(version.status, 0);
  EXPECT_THAT(version.out, StartsWith("prima "));
}

TEST(Prima, SaysWhatACommandLineLacks) {
  const Outcome nothing = run({});
  EXPECT_EQ(nothing.status, 2);
  EXPECT_THAT(nothing.out, HasSubstr("Examples"));
  const Outcome unknown = run({"dance"});
  EXPECT_EQ(unknown.status, 2);
  EXPECT_THAT(unknown.err, HasSubstr("dance"));
  const Outcome unknown_help = run({"dance", "--help"});
  EXPECT_EQ(unknown_help.status, 2);
  EXPECT_THAT(unknown_help.err, HasSubstr("dance"));
  const Outcome no_model = run({"run", "-p", "hi"});
  EXPECT_EQ(no_model.status, 2);
  EXPECT_THAT(no_model.err, AllOf(HasSubstr("--model"), HasSubstr("prima run --help")));
}

TEST_F(RunTest, ReportsWhatItDid) {
  const json report = report_of({"-p", "hello world", "-n", "12", "--ignore-eos", "--temp", "0"});
  EXPECT_EQ(report["tokens"].size(), 12u);
  EXPECT_FALSE(report["text"].get<std::string>().empty());
  EXPECT_EQ(report["finish_reason"], "max_tokens");
  EXPECT_GT(report["prompt_tokens"], 1);
  EXPECT_GT(report["ttft_ms"], 0.0);
  EXPECT_GT(report["tpot_ms"], 0.0);
  EXPECT_GT(report["load_ms"], 0.0);
  EXPECT_GT(report["prefill_tokens_per_second"], 0.0);
  EXPECT_GT(report["decode_tokens_per_second"], 0.0);
  ASSERT_EQ(report["devices"].size(), 1u);
  EXPECT_FALSE(report["devices"][0]["name"].get<std::string>().empty());
  EXPECT_EQ(report["plan"]["rounds"], 1);
  EXPECT_EQ(report["plan"]["devices"][0]["windows"], json::parse("[[0, 2]]"));
  for (const char* kind : {"weights", "kv_cache", "compute_buffers", "head_peak_resident"}) {
    EXPECT_GT(report["memory"][kind], 0) << kind;
  }
}

TEST_F(RunTest, WhatWasNotMeasuredIsNull) {
  const json report = report_of({"-p", "hello", "-n", "1", "--ignore-eos"});
  EXPECT_EQ(report["tokens"].size(), 1u);
  EXPECT_TRUE(report["tpot_ms"].is_null());
  EXPECT_TRUE(report["decode_tokens_per_second"].is_null());
}

TEST_F(RunTest, FiguresGoToStandardErrorAndTheAnswerAloneToStandardOutput) {
  const Outcome outcome = run(with({"-p", "hello", "-n", "5", "--ignore-eos"}));
  EXPECT_EQ(outcome.status, 0);
  for (const char* figure : {"TTFT", "TPOT", "tokens/s", "memory"}) {
    EXPECT_THAT(outcome.err, HasSubstr(figure));
    EXPECT_THAT(outcome.out, Not(HasSubstr(figure)));
  }
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  // No progress where standard error is no terminal.
  EXPECT_THAT(outcome.err, Not(HasSubstr("\r")));
  EXPECT_THAT(outcome.out, testing::EndsWith("\n"));
}

TEST_F(RunTest, TheSeedDecides) {
  const auto text = [](const char* seed) {
    return report_of({"-p", "hello", "-n", "20", "--temp", "1.5", "--seed", seed});
  };
  const json first = text("7");
  EXPECT_EQ(first["seed"], 7);
  EXPECT_EQ(first["tokens"], text("7")["tokens"]);
  EXPECT_NE(first["tokens"], text("8")["tokens"]);
  // Without one it is another every time, and named.
  const json random = report_of({"-p", "hello", "-n", "20", "--temp", "1.5"});
  EXPECT_EQ(random["tokens"],
            text(std::to_string(random["seed"].get<unsigned>()).c_str())["tokens"]);
}

TEST_F(RunTest, ThePromptMayComeFromAnywhere) {
  const Arguments rest = {"-n", "8", "--temp", "0", "--ignore-eos"};
  const auto tokens = [&](Arguments source, std::string_view input) {
    source.insert(source.end(), rest.begin(), rest.end());
    return report_of(source, input)["tokens"];
  };
  const json expected = tokens({"-p", "some words"}, "");
  EXPECT_EQ(tokens({"-f", folder().file("prompt.txt", "some words\n")}, ""), expected);
  EXPECT_EQ(tokens({}, "some words\n"), expected);
  EXPECT_NE(tokens({"-p", "other words"}, ""), expected);
}

TEST_F(RunTest, ATemplateSurroundsThePrompt) {
  const std::string chat = folder().file(
      "chat.jinja", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}answer:");
  const Arguments rest = {"-n", "8", "--temp", "0", "--ignore-eos"};
  const auto tokens = [&](Arguments arguments) {
    arguments.insert(arguments.end(), rest.begin(), rest.end());
    return report_of(arguments)["tokens"];
  };
  EXPECT_EQ(tokens({"-p", "hi", "--system", "be", "--chat-template", chat}),
            tokens({"--raw", "-p", "system: be\nuser: hi\nanswer:"}));
}

TEST_F(RunTest, StopsAtAStopString) {
  const Arguments rest = {"-p", "hello", "-n", "30", "--temp", "0", "--ignore-eos"};
  const std::string whole = report_of(rest)["text"];
  ASSERT_GT(whole.size(), 12u);
  // Two ASCII characters of the answer, which may lie in two tokens.
  std::size_t at = 5;
  const auto ascii = [&](std::size_t i) { return static_cast<unsigned char>(whole[i]) < 0x80; };
  while (at + 2 < whole.size() && !(ascii(at) && ascii(at + 1))) ++at;
  const std::string stop = whole.substr(at, 2);
  Arguments stopping = rest;
  stopping.insert(stopping.end(), {"--stop", stop});
  const json report = report_of(stopping);
  EXPECT_EQ(report["finish_reason"], "stop_string");
  EXPECT_EQ(report["text"], whole.substr(0, whole.find(stop)));
}

TEST_F(RunTest, ObeysGrammars) {
  const std::string grammar = folder().file("yes.gbnf", "root ::= \"yes\" | \"no\"");
  EXPECT_THAT(report_of({"-p", "hello", "--grammar", grammar})["text"],
              testing::AnyOf("yes", "no"));
  const std::string schema = folder().file("schema.json", R"({"enum": ["red", "blue"]})");
  EXPECT_THAT(report_of({"-p", "hello", "--json-schema", schema, "-n", "40"})["text"],
              testing::AnyOf(StartsWith("\"red\""), StartsWith("\"blue\"")));
}

// Random weights write random bytes; json::parse and the terminal want UTF-8.
TEST_F(RunTest, TheAnswerIsUtf8) {
  const json report = report_of({"-p", "hello", "-n", "200", "--temp", "5", "--top-k", "0",
                                 "--top-p", "1", "--min-p", "0", "--ignore-eos", "--seed", "3"});
  EXPECT_THAT(report["text"].get<std::string>(), HasSubstr("\xEF\xBF\xBD"));
}

TEST_F(RunTest, EndsWhereTheContextIsFull) {
  const json report = report_of({"-p", "hello", "-c", "32", "--ignore-eos"});
  EXPECT_EQ(report["finish_reason"], "context_full");
  EXPECT_EQ(report["prompt_tokens"].get<int>() + report["tokens"].size(), 33);
  EXPECT_THAT(run(with({"-p", "hello", "-c", "32", "--ignore-eos"})).err,
              HasSubstr("the context of 32 tokens is full"));
}

// Each bad input: its status, and what the message must name. Nothing is written to standard
// output.
struct BadInput {
  Arguments arguments;
  int status;
  std::vector<std::string> named;
  std::string input = "";
};

TEST_F(RunTest, BadInputGetsAClearAnswer) {
  const std::string not_a_model = folder().file("text.gguf", "this is not a model\n");
  const std::string whole = read_file(model());
  const std::string half = folder().file("half.gguf", whole.substr(0, whole.size() / 2));
  const std::string header = folder().file("header.gguf", whole.substr(0, 100));
  const std::string empty = folder().file("empty.txt", "");
  const std::string bad_grammar = folder().file("bad.gbnf", "root ::= (");
  const std::string bad_schema = folder().file("bad.json", "{");
  const std::string bad_template = folder().file("bad.jinja", "{% for %}");
  std::string words;
  for (int i = 0; i < 2000; ++i) words += "word ";

  const std::vector<BadInput> inputs = {
      {{"run", "-m", folder().file("nowhere.gguf"), "-p", "hi"}, 1, {"nowhere.gguf", "no such"}},
      {{"run", "-m", folder().path().string(), "-p", "hi"}, 2, {"directory"}},
      {{"run", "-m", not_a_model, "-p", "hi"}, 1, {"text.gguf", "GGUF"}},
      {{"run", "-m", half, "-p", "hi"}, 1, {"half.gguf", "ownload"}},
      {{"run", "-m", header, "-p", "hi"}, 1, {"header.gguf", "ownload"}},
      {{"run", "-m", empty, "-p", "hi"}, 1, {"empty.txt"}},
      {with({"-p", "hi", "-c", "100000"}), 2, {"100000", "256", "trained"}},
      {with({"-p", "hi", "-c", "0"}), 2, {"-c 0"}},
      {with({"-p", "hi", "-n", "0"}), 2, {"-n 0"}},
      {with({"-p", "hi", "-n", "-5"}), 2, {"-n -5"}},
      {with({"-p", "hi", "-n", "many"}), 2, {"many"}},
      {with({"-p", ""}), 2, {"prompt is empty"}},
      {with({"-f", empty}), 2, {"prompt is empty"}},
      {with({}), 2, {"prompt is empty"}},
      {with({"-p", words}), 2, {"256", "prompt"}},
      {with({"-p", words, "-c", "64"}), 2, {"64", "-c", "256"}},
      {with({"-p", "hi", "-f", empty}), 2, {"-p", "-f"}},
      {with({"-f", folder().file("nowhere.txt")}), 1, {"nowhere.txt"}},
      {with({"-f", folder().path().string()}), 2, {"directory"}},
      {with({"-p", "hi", "--json", folder().file("no/report.json")}), 1, {"report.json"}},
      {with({"-p", "hi", "--json", folder().path().string()}), 1, {"directory"}},
      {with({"-p", "hi", "--temp", "-1"}), 2, {"temperature"}},
      {with({"-p", "hi", "--top-p", "2"}), 2, {"top-p"}},
      {with({"-p", "hi", "--seed", "-1"}), 2, {"--seed"}},
      {with({"-p", "hi", "--stop", ""}), 2, {"--stop"}},
      {with({"-p", "hi", "--threads", "-2"}), 2, {"--threads"}},
      {with({"-p", "hi", "--kv-type", "q3"}), 2, {"q3", "q8_0"}},
      {with({"-p", "hi", "--system", "be"}), 2, {"small.gguf", "template"}},
      {with({"-p", "hi", "--system", "be", "--raw"}), 2, {"--raw"}},
      {with({"-p", "hi", "--chat-template", bad_template}), 2, {"template"}},
      {with({"-p", "hi", "--chat-template", empty}), 2, {"empty.txt"}},
      {with({"-p", "hi", "--grammar", bad_grammar}), 2, {"grammar"}},
      {with({"-p", "hi", "--json-schema", bad_schema}), 2, {"schema"}},
      {with({"-p", "hi", "--grammar", bad_grammar, "--json-schema", bad_schema}), 2, {"--grammar"}},
      {with({"-p", "hi", "--workers", "2", "--windows", "1,1"}), 2, {"--windows", "3"}},
      {with({"-p", "hi", "--windows", "1,-1"}), 2, {"--windows"}},
      {with({"-p", "hi", "--rounds", "0"}), 2, {"--rounds"}},
      {with({"-p", "hi", "--memory", "plenty"}), 2, {"--memory", "plenty", "512M"}},
      {with({"-p", "hi", "--memory", "1K"}), 1, {"1.0 KiB", "At least"}},
      {with({"-p", "hi", "--gpu-memory", "-1G"}), 2, {"--gpu-memory", "-1G"}},
      {with({"-p", "hi", "--gpu-prompts", "0"}), 2, {"--gpu-prompts", "auto or off"}},
      {with({"-p", "hi", "--gpu-prompts", "12x"}), 2, {"--gpu-prompts", "12x"}},
      {with({"-p", "hi", "--frob"}), 2, {"--frob", "prima run --help"}},
  };
  for (const BadInput& bad : inputs) {
    const Outcome outcome = run(bad.arguments, bad.input);
    SCOPED_TRACE(
        testing::PrintToString(Arguments(bad.arguments.begin(), bad.arguments.begin() + 3)) +
        " ... " + bad.arguments.back().substr(0, 60) + "\n" + outcome.err);
    EXPECT_EQ(outcome.status, bad.status);
    EXPECT_EQ(outcome.out, "");
    for (const std::string& named : bad.named) EXPECT_THAT(outcome.err, HasSubstr(named));
  }
}

// The model's weights are F16, which every layout computes alike.
TEST_F(RunTest, LessMemoryThanTheModelNeedsGivesTheSameTokens) {
  const std::string large = folder().file("large.gguf");
  const Outcome made = run({"model", "synth", "--layers", "12", "--embd", "256", "--heads", "4",
                            "--vocab", "512", "--context", "256", "--type", "F16", "-o", large});
  ASSERT_EQ(made.status, 0) << made.err;
  const Arguments arguments = {"run", "-m",     large, "-p", "hello", "-n",
                               "16",  "--temp", "0",   "-c", "64"};
  const json whole = report_of_all(arguments);
  EXPECT_EQ(whole["memory"]["streamed_per_token"], 0);

  Arguments too_little = arguments;
  too_little.insert(too_little.end(), {"--memory", "1M"});
  const std::string refusal = run(too_little).err;
  const std::string at_least = "At least ";
  const std::size_t named = refusal.find(at_least);
  ASSERT_NE(named, std::string::npos) << refusal;
  const std::string enough = refusal.substr(refusal.find('(', named) + 1, 20);

  Arguments limited = arguments;
  limited.insert(limited.end(), {"--memory", enough.substr(0, enough.find(' '))});
  const json streamed = report_of_all(limited);
  EXPECT_GT(streamed["memory"]["streamed_per_token"], 0);
  EXPECT_EQ(streamed["tokens"], whole["tokens"]);
}

TEST_F(RunTest, ReportsAreWrittenWholeOrNotAtAll) {
  const std::string report = folder().file("kept.json", "what was there");
  Arguments failing = with({"-p", "hi", "-n", "0", "--json", report});
  EXPECT_NE(run(failing).status, 0);
  EXPECT_EQ(read_file(report), "what was there");
  Arguments working = with({"-p", "hi", "-n", "2", "--json", report});
  EXPECT_EQ(run(working).status, 0);
  EXPECT_TRUE(json::accept(read_file(report)));
  for (const auto& entry : std::filesystem::directory_iterator(folder().path())) {
    EXPECT_THAT(entry.path().filename().string(), Not(StartsWith("kept.json.")));
  }
}

TEST_F(RunTest, CtrlCEndsTheAnswerAndStillReports) {
  const std::string patient = make_model(folder(), "patient.gguf", 1 << 17);
  const std::string report_path = folder().file("interrupted.json");
  Program program(
      {"run", "-m", patient, "-p", "hello", "-c", "131072", "--ignore-eos", "--json", report_path});
  program.end_input();
  ASSERT_TRUE(program.wait_for([&] { return program.out().size() > 20; })) << program.err();
  program.send(SIGINT);
  EXPECT_EQ(program.wait(), 130);
  EXPECT_THAT(program.err(), HasSubstr("TTFT"));
  const json report = json::parse(read_file(report_path));
  EXPECT_EQ(report["finish_reason"], "cancelled");
  EXPECT_THAT(program.out(), StartsWith(report["text"].get<std::string>()));
}

}  // namespace
}  // namespace prima::test

// The ring as people run it: `prima run` and `prima join` as processes on loopback, on a synthetic
// model.
#include <cstdlib>
#include <memory>

#include "process.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace prima {
namespace {

namespace fs = std::filesystem;
using Seconds = Process::Seconds;
using testing::HasSubstr;

// What a command may take on a busy machine.
constexpr Seconds kPatience(60);

class RingProcesses : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    executable_ = std::getenv("PRIMA_EXECUTABLE") ? std::getenv("PRIMA_EXECUTABLE") : "";
    ASSERT_FALSE(executable_.empty()) << "set PRIMA_EXECUTABLE, as ctest does";
    folder_ = fs::temp_directory_path() / ("prima-ring-" + std::to_string(::getpid()));
    fs::create_directories(folder_ / "run");
    fs::permissions(folder_ / "run", fs::perms::owner_all);
    ::setenv("XDG_RUNTIME_DIR", (folder_ / "run").c_str(), 1);
    ::setenv("XDG_CONFIG_HOME", (folder_ / "config").c_str(), 1);
    model_ = (folder_ / "model.gguf").string();
    Process synth(
        {executable_, "model", "synth", "--layers", "8", "--embd", "64", "--ff", "128", "--heads",
         "4", "--kv-heads", "2", "--vocab", "300", "--type", "F16", "-o", model_},
        folder_ / "synth.log");
    ASSERT_EQ(synth.wait(kPatience), 0) << synth.output();
  }
  static void TearDownTestSuite() { fs::remove_all(folder_); }

  std::unique_ptr<Process> start(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), executable_);
    const fs::path output = folder_ / ("output-" + std::to_string(++outputs_) + ".log");
    return std::make_unique<Process>(arguments, output);
  }
  std::unique_ptr<Process> join(const std::string& name, const std::string& model = model_) {
    return start({"join", "-m", model, "--name", name, "--threads", "1"});
  }
  std::unique_ptr<Process> run(const std::string& n_tokens, std::vector<std::string> more) {
    std::vector<std::string> arguments{"run",    "-m",    model_, "--threads",
                                       "1",      "--raw", "-p",   "Once upon a time, ",
                                       "--temp", "0",     "-n",   n_tokens};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return start(arguments);
  }

  // The answer's token ids, from --json.
  std::string tokens(std::vector<std::string> ring_options) {
    const fs::path report = folder_ / "report.json";
    fs::remove(report);
    ring_options.insert(ring_options.end(), {"--json", report.string()});
    const auto head = run("48", ring_options);
    EXPECT_EQ(head->wait(kPatience), 0) << head->output();
    const std::string text = read_file(report);
    const auto from = text.find("\"tokens\"");
    return from == std::string::npos ? "" : text.substr(from, text.find(']', from) - from);
  }

  static std::string executable_;
  static fs::path folder_;
  static std::string model_;
  static inline int outputs_ = 0;  // a file each: an old one must not speak for a new process
};

std::string RingProcesses::executable_;
fs::path RingProcesses::folder_;
std::string RingProcesses::model_;

TEST_F(RingProcesses, GiveTheSameTokensForEverySplit) {
  const std::string alone = tokens({});
  ASSERT_GT(alone.size(), 100u);
  const auto first = join("first");
  const auto second = join("second");
  const auto third = join("third");
  EXPECT_EQ(tokens({"--workers", "1", "--rounds", "1"}), alone);
  EXPECT_EQ(tokens({"--workers", "2", "--windows", "0,3,1", "--rounds", "2"}), alone);
  EXPECT_EQ(tokens({"--workers", "3", "--rounds", "1"}), alone);
  EXPECT_EQ(tokens({"--workers", "3", "--rounds", "2"}), alone);
  EXPECT_EQ(tokens({"--workers", "3", "--windows", "1,0,1,0", "--rounds", "4"}), alone);
  for (const auto& worker : {&first, &second, &third}) {
    (*worker)->send(SIGINT);
    EXPECT_EQ((*worker)->wait(kPatience), 0) << (*worker)->output();
  }
}

TEST_F(RingProcesses, NameAWorkerThatIsKilledOrStopsAndServeOnWithTheRest) {
  for (const int signal : {SIGKILL, SIGSTOP}) {
    const auto steady = join("steady");
    const auto victim = join("victim");
    const auto head = run("4000", {"-c", "4096", "--workers", "2", "--rounds", "1"});
    ASSERT_TRUE(victim->says("serving", kPatience)) << head->output();
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    ASSERT_FALSE(head->wait(Seconds(0))) << "finished too early: " << head->output();
    victim->send(signal);
    const auto struck = std::chrono::steady_clock::now();
    EXPECT_EQ(head->wait(kPatience), 1);
    // Five seconds are promised; a busy machine is forgiven a little.
    EXPECT_LT(Seconds(std::chrono::steady_clock::now() - struck), Seconds(7));
    EXPECT_THAT(head->output(), HasSubstr("victim"));
    EXPECT_NE(tokens({"--workers", "1", "--rounds", "1"}), "");
    // What wakes up again joins again, as does what is started again.
    std::unique_ptr<Process> restarted;
    if (signal == SIGSTOP) {
      victim->send(SIGCONT);
    } else {
      restarted = join("victim");
    }
    EXPECT_NE(tokens({"--workers", "2", "--rounds", "1"}), "");
  }
}

// From its start until it serves, and a little beyond: whatever its state, the head either does
// without it or says who was lost, and the next request works.
TEST_F(RingProcesses, SurviveAWorkerKilledAtAnyMoment) {
  const std::vector<std::string> two_workers{"--workers", "2", "--rounds", "2"};
  const auto steady = join("steady");
  Seconds forming{};
  std::string undisturbed;
  {
    const auto other = join("other");
    undisturbed = tokens(two_workers);
    ASSERT_GT(undisturbed.size(), 100u);
    const auto started = std::chrono::steady_clock::now();
    const auto head = run("4000", {"-c", "4096", "--workers", "2", "--rounds", "2"});
    ASSERT_TRUE(other->says("serving", kPatience, 2)) << head->output();
    forming = std::chrono::steady_clock::now() - started;
  }
  constexpr int kMoments = 12;
  int lost = 0;
  for (int moment = 0; moment < kMoments; ++moment) {
    SCOPED_TRACE(moment);
    const auto head = run("1000", {"-c", "4096", "--workers", "2", "--rounds", "2"});
    const auto victim = join("victim");
    std::this_thread::sleep_for(1.25 * forming * moment / kMoments);
    victim->send(SIGKILL);
    const auto replacement = join("replacement");
    const auto status = head->wait(kPatience);
    ASSERT_TRUE(status) << "the head hangs: " << head->output();
    if (*status != 0) {
      ++lost;
      EXPECT_EQ(*status, 1);
      EXPECT_THAT(head->output(), HasSubstr("victim"));
    }
    EXPECT_EQ(tokens(two_workers), undisturbed);
  }
  EXPECT_GT(lost, 0) << "no moment struck a ring that had formed";
}

// Each chunk of a perplexity is a sequence of its own: a prompt, its logits, and the cells freed.
TEST_F(RingProcesses, ServeAThousandRequestsWithoutGrowing) {
  const std::string text = (folder_ / "text.txt").string();
  {
    std::ofstream out(text);
    for (int i = 0; i < 3000; ++i) out << "word " << i * 7919 % 1000 << ' ';
  }
  const auto requests = [&](const char* n) {
    return start({"model", "perplexity", "-m", model_, "-f", text, "-c", "8", "--chunks", n,
                  "--threads", "1", "--workers", "3", "--rounds", "2"});
  };
  std::vector<std::unique_ptr<Process>> workers;
  for (const char* name : {"one", "two", "three"}) workers.push_back(join(name));
  const auto warm = requests("100");
  ASSERT_EQ(warm->wait(kPatience), 0) << warm->output();
  std::vector<Process::Footprint> before;
  for (const auto& worker : workers) {
    ASSERT_TRUE(worker->says("looking for a head", kPatience, 2));
    before.push_back(worker->footprint());
  }
  const auto head = requests("1000");
  ASSERT_TRUE(head->says("[100]", kPatience)) << head->output();
  const Process::Footprint head_before = head->footprint();
  ASSERT_TRUE(head->says("[900]", kPatience)) << head->output();
  const Process::Footprint head_after = head->footprint();
  ASSERT_EQ(head->wait(kPatience), 0) << head->output();
  EXPECT_THAT(head->output(), HasSubstr("1000 chunks of 8 tokens"));
  EXPECT_LE(head_after.threads, head_before.threads);
  EXPECT_LE(head_after.descriptors, head_before.descriptors);
  EXPECT_LE(head_after.resident_kib, head_before.resident_kib + 2048);
  for (std::size_t i = 0; i < workers.size(); ++i) {
    ASSERT_TRUE(workers[i]->says("looking for a head", kPatience, 3));
    const Process::Footprint after = workers[i]->footprint();
    EXPECT_LE(after.threads, before[i].threads);
    EXPECT_LE(after.descriptors, before[i].descriptors + 2);  // some are still being closed
    EXPECT_LE(after.resident_kib, before[i].resident_kib + 2048);
  }
}

TEST_F(RingProcesses, AreFreeAgainWhenTheirHeadIsKilled) {
  const auto worker = join("worker");
  const auto head = run("4000", {"-c", "4096", "--workers", "1", "--rounds", "1"});
  ASSERT_TRUE(worker->says("serving", kPatience)) << head->output();
  head->send(SIGKILL);
  EXPECT_TRUE(worker->says("looking for a head", Seconds(12), 2)) << worker->output();
  EXPECT_NE(tokens({"--workers", "1", "--rounds", "1"}), "");
}

TEST_F(RingProcesses, RefuseAModelThatDiffersByOneByte) {
  const std::string other = (folder_ / "other.gguf").string();
  for (const bool weights : {true, false}) {
    std::string bytes = read_file(model_);
    // The last byte belongs to a weight, the architecture's name to the metadata.
    const std::size_t at = weights ? bytes.size() - 1 : bytes.find("general.name");
    ASSERT_NE(at, std::string::npos);
    const std::size_t changed = weights ? at : at + std::string("general.name").size() + 4 + 8;
    bytes[changed] = static_cast<char>(bytes[changed] ^ 1);
    std::ofstream(other, std::ios::binary) << bytes;
    const auto worker = join("stranger", other);
    const auto head = run("8", {"--workers", "1", "--rounds", "1"});
    EXPECT_EQ(head->wait(kPatience), 1) << head->output();
    EXPECT_THAT(head->output(), HasSubstr("is not on this device"));
    EXPECT_THAT(head->output(), HasSubstr("stranger"));
    EXPECT_THAT(head->output(), HasSubstr("other.gguf"));
  }
}

TEST_F(RingProcesses, SleepWhileTheyWait) {
  const auto worker = join("sleeper");
  EXPECT_NE(tokens({"--workers", "1", "--rounds", "1"}),
            "");  // it has computed, and its threads are there
  ASSERT_TRUE(worker->says("looking for a head", kPatience, 2));
  const Seconds before = worker->processor_time();
  constexpr Seconds kWatched(4);
  std::this_thread::sleep_for(kWatched);
  EXPECT_LE(worker->processor_time() - before, 0.01 * kWatched + Seconds(0.01));  // one clock tick
}

TEST_F(RingProcesses, WithAnotherKeyStayOut) {
  const std::string key = (folder_ / "other.key").string();
  const auto stranger = start({"join", "-m", model_, "--key-file", key, "--name", "stranger"});
  const auto head = run("8", {"--workers", "1", "--rounds", "1"});
  EXPECT_FALSE(head->wait(Seconds(2)));
  const auto friendly = join("friend");
  EXPECT_EQ(head->wait(kPatience), 0) << head->output();
  EXPECT_FALSE(stranger->says("waiting for work", Seconds(0)));
}

}  // namespace
}  // namespace prima

// The layer store from outside: written, used from the next start, left aside, repaired.
#include <cstdlib>
#include <fstream>
#include <string>

#include "run/program.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace prima::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

class StoreTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(::setenv("XDG_CACHE_HOME", (folder_.path() / "cache").c_str(), 1), 0);
    const Outcome made =
        run({"model", "synth", "--layers", "8", "--embd", "512", "--heads", "8", "--vocab", "512",
             "--context", "256", "--type", "Q4_0", "-o", model_});
    ASSERT_EQ(made.status, 0) << made.err;
  }

  // With half of the weights in memory.
  json answer(const Arguments& more = {}) const {
    const std::string report = folder_.file("report.json");
    Arguments all = {"run",    "-m", model_, "-p",  "hello",        "-n",     "24",
                     "--temp", "0",  "-c",   "128", "--ignore-eos", "--json", report};
    all.insert(all.end(), more.begin(), more.end());
    const Outcome outcome = run(all);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return json::parse(read_file(report));
  }

  std::string some_memory() const {
    const Outcome refused =
        run({"run", "-m", model_, "-p", "hello", "-c", "128", "--memory", "1M"});
    const std::size_t named = refused.err.find("At least ");
    EXPECT_NE(named, std::string::npos) << refused.err;
    const std::string enough = refused.err.substr(refused.err.find('(', named) + 1);
    return std::to_string(std::stoull(enough) + (4 << 20));
  }

  std::vector<fs::path> stored() const {
    std::vector<fs::path> files;
    std::error_code error;
    for (const auto& entry : fs::recursive_directory_iterator(folder_.path() / "cache", error)) {
      if (entry.path().extension() == ".weights") files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    return files;
  }

  TemporaryFolder folder_;
  std::string model_ = folder_.file("model.gguf");
};

TEST_F(StoreTest, IsWrittenUsedAndRemoved) {
  const std::string memory = some_memory();
  const json whole = answer();  // in memory, in the processor's layout
  const Outcome written = run({"model", "store", model_});
  ASSERT_EQ(written.status, 0) << written.err;
  EXPECT_THAT(written.out, HasSubstr("complete"));
  if (stored().empty()) GTEST_SKIP() << "nothing is repacked on this processor";

  const json streamed = answer({"--memory", memory});
  EXPECT_GT(streamed["memory"]["streamed_per_token"], 0);
  EXPECT_EQ(streamed["tokens"], whole["tokens"]);  // the same kernels
  EXPECT_GT(answer({"--memory", memory, "--no-store"})["tokens"].size(), 0u);

  const Outcome removed = run({"model", "store", model_, "--remove"});
  EXPECT_EQ(removed.status, 0) << removed.err;
  EXPECT_TRUE(stored().empty());
}

TEST_F(StoreTest, APartOfTheLayers) {
  const Outcome part = run({"model", "store", model_, "--layers", "0-1,5"});
  ASSERT_EQ(part.status, 0) << part.err;
  const std::size_t n_part = stored().size();
  if (n_part == 0) GTEST_SKIP() << "nothing is repacked on this processor";
  EXPECT_EQ(n_part, 3u);
  EXPECT_EQ(run({"model", "store", model_, "--layers", "0-7,output"}).status, 0);
  const auto by_name = stored();
  ASSERT_EQ(run({"model", "store", model_}).status, 0);
  EXPECT_EQ(stored(), by_name);
  const std::size_t n_more = by_name.size();

  for (const char* wrong : {"8", "3-2", "x", "0-", "-1", ""}) {
    const Outcome refused = run({"model", "store", model_, "--layers=" + std::string(wrong)});
    EXPECT_NE(refused.status, 0) << wrong;
    EXPECT_THAT(refused.err, HasSubstr("--layers")) << wrong;
  }
  EXPECT_EQ(stored().size(), n_more);
}

TEST_F(StoreTest, DamageIsAnErrorOnceAndThenGone) {
  const std::string memory = some_memory();
  ASSERT_EQ(run({"model", "store", model_}).status, 0);
  if (stored().empty()) GTEST_SKIP() << "nothing is repacked on this processor";
  const fs::path damaged = stored()[3];
  {
    std::fstream file(damaged, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(40'000);  // in no row that is looked at when it is opened
    file.put('\x5a');
    file.put('\x5b');
  }
  const Outcome refused =
      run({"run", "-m", model_, "-p", "hello", "-n", "4", "-c", "128", "--memory", memory});
  EXPECT_EQ(refused.status, 1);
  EXPECT_THAT(refused.err, HasSubstr(damaged.filename().string()));
  EXPECT_FALSE(fs::exists(damaged));
  EXPECT_EQ(answer({"--memory", memory})["tokens"].size(), 24u);
}

TEST_F(StoreTest, StaysWithinItsSize) {
  const Outcome refused = run({"model", "store", model_, "--store-size", "100K"});
  EXPECT_EQ(refused.status, 1);
  EXPECT_THAT(refused.err, HasSubstr("--store-size"));
  EXPECT_TRUE(stored().empty());
}

}  // namespace
}  // namespace prima::test

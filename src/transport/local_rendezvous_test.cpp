#include "transport/local_rendezvous.h"

#include <fstream>

#include <gtest/gtest.h>
#include <unistd.h>

namespace prima::transport {
namespace {

namespace fs = std::filesystem;

class LocalRendezvous : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("prima-rendezvous-" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path folder_;
};

TEST_F(LocalRendezvous, FindsHeadsAsLongAsTheyAnnounce) {
  EXPECT_TRUE(find_local_heads(folder_).empty());
  auto first = announce_locally(folder_, 5001).value();
  const auto second = announce_locally(folder_, 5002).value();
  EXPECT_EQ(find_local_heads(folder_).size(), 2u);
  first.reset();
  ASSERT_EQ(find_local_heads(folder_).size(), 1u);
  EXPECT_EQ(find_local_heads(folder_)[0], (Endpoint{"127.0.0.1", 5002}));
}

TEST_F(LocalRendezvous, KnowsAHeadFromOneThatHadItsPort) {
  auto before = announce_locally(folder_, 5001).value();
  const auto now = announce_locally(folder_, 5001).value();
  before.reset();
  EXPECT_EQ(find_local_heads(folder_).size(), 1u);
}

TEST_F(LocalRendezvous, ForgetsHeadsThatAreDead) {
  std::ofstream(folder_ / "head-5003-abcdef") << "5003\n";  // nobody holds its lock
  std::ofstream(folder_ / "head-nonsense") << "x";
  EXPECT_TRUE(find_local_heads(folder_).empty());
  EXPECT_FALSE(fs::exists(folder_ / "head-5003-abcdef"));
}

TEST_F(LocalRendezvous, TakesNoFolderThatOthersMayWrite) {
  const std::string before = std::getenv("XDG_RUNTIME_DIR") ? std::getenv("XDG_RUNTIME_DIR") : "";
  ::setenv("XDG_RUNTIME_DIR", folder_.c_str(), 1);
  EXPECT_EQ(runtime_folder().value(), folder_ / "prima");
  fs::permissions(folder_ / "prima", fs::perms::all);
  EXPECT_EQ(runtime_folder().error().code, ErrorCode::invalid_argument);
  ::setenv("XDG_RUNTIME_DIR", before.c_str(), 1);
}

}  // namespace
}  // namespace prima::transport

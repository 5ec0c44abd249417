#include "transport/cluster_key.h"

#include <filesystem>
#include <fstream>
#include <set>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <sys/stat.h>

namespace prima::transport {
namespace {

namespace fs = std::filesystem;

class ClusterKeyFile : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) /
              ("prima-key-" + std::to_string(::getpid()) + "-" +
               testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path folder_;
};

TEST(ClusterKey, CodesAreRandomAndSurviveTyping) {
  std::set<std::string> codes;
  for (int i = 0; i < 100; ++i) codes.insert(make_code());
  EXPECT_EQ(codes.size(), 100u);
  for (const std::string& code : codes) {
    EXPECT_EQ(parse_code(format_code(code)).value(), code);
  }
  EXPECT_EQ(parse_code("abcd-efgh jkmn-pqoi").value(), "ABCDEFGHJKMNPQ01");
}

TEST(ClusterKey, RefusesWhatCannotBeACode) {
  EXPECT_EQ(parse_code("").error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(parse_code("ABCD-EFGH-JKMN-PQR").error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(parse_code("ABCD-EFGH-JKMN-PQRST").error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(parse_code("ABCD-EFGH-JKMN-PQR*").error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(parse_code("ABCD-EFGH-JKMN-PQRU").error().code, ErrorCode::invalid_argument);
}

TEST(ClusterKey, DerivesTheSameKeysFromTheSameCodeOnly) {
  const ClusterKey one = stretch("ABCDEFGHJKMNPQRS").value();
  const ClusterKey same = stretch("ABCDEFGHJKMNPQRS").value();
  const ClusterKey other = stretch("ABCDEFGHJKMNPQRT").value();
  EXPECT_EQ(one.stretched, same.stretched);
  EXPECT_NE(one.stretched, other.stretched);
  const DerivedKeys keys = derive_keys(one);
  EXPECT_EQ(keys.listener.secret_key, derive_keys(same).listener.secret_key);
  EXPECT_NE(keys.listener.secret_key, keys.link.secret_key);
  EXPECT_NE(keys.listener.public_key, derive_keys(other).listener.public_key);
  EXPECT_NE(keys.announcement, keys.listener.secret_key);
}

TEST_F(ClusterKeyFile, IsMadeOnceReadableByItsOwnerOnly) {
  const fs::path path = folder_ / "sub" / "cluster.key";
  const ClusterKey made = load_or_create_key(path).value();
  struct stat status {};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  const ClusterKey loaded = load_or_create_key(path).value();
  EXPECT_EQ(loaded.code, made.code);
  EXPECT_EQ(loaded.stretched, made.stretched);
  EXPECT_EQ(std::distance(fs::directory_iterator(path.parent_path()), {}), 1);
}

TEST_F(ClusterKeyFile, IsTheSameForAllWhoStartAtOnce) {
  const fs::path path = folder_ / "cluster.key";
  std::vector<std::string> codes(4);
  {
    std::vector<std::jthread> threads;
    for (std::string& code : codes) {
      threads.emplace_back([&] { code = load_or_create_key(path).value().code; });
    }
  }
  for (const std::string& code : codes) EXPECT_EQ(code, codes.front());
}

TEST_F(ClusterKeyFile, IsRefusedWhereOthersCanReadItOrItIsNoKey) {
  const fs::path path = folder_ / "cluster.key";
  ASSERT_TRUE(load_or_create_key(path));
  fs::permissions(path, fs::perms::group_read, fs::perm_options::add);
  EXPECT_EQ(load_or_create_key(path).error().code, ErrorCode::invalid_argument);
  fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_TRUE(load_or_create_key(path));
  std::ofstream(path) << "hello\n";
  EXPECT_EQ(load_or_create_key(path).error().code, ErrorCode::corrupt);
}

TEST_F(ClusterKeyFile, CanBeReplaced) {
  const fs::path path = folder_ / "cluster.key";
  ASSERT_TRUE(load_or_create_key(path));
  ASSERT_TRUE(store_key(path, stretch("ABCDEFGHJKMNPQRS").value()));
  EXPECT_EQ(load_or_create_key(path).value().code, "ABCDEFGHJKMNPQRS");
}

}  // namespace
}  // namespace prima::transport

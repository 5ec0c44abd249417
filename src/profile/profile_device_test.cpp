#include "profile/profile_device.h"

#include <fstream>
#include <future>
#include <vector>

#include <gtest/gtest.h>

#include "model/synth.h"
#include "model/testing/temporary_folder.h"
#include "profile/device_profile_json.h"
#include "profile/hardware.h"

namespace prima::profile {
namespace {

namespace fs = std::filesystem;

DeviceProfile some_profile() {
  LayerTimes layer;
  layer.short_context_seconds = {{1.5e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3}};
  layer.long_context_seconds = {{2.5e-3, 3e-3, 4e-3, 5e-3, 6e-3, 0.1 + 0.2}};
  layer.long_context_tokens = 1024;
  DeviceProfile profile;
  profile.name = "laptop";
  profile.computer = "5eed";
  profile.memory_available_bytes = 5 * kGiB + 1;
  profile.disk_read_bytes_per_second = 1.9e9;
  profile.compute_buffer_bytes = 77;
  profile.unbudgeted_up_to_bytes = 88;
  profile.cpu_layers = {layer, layer};
  profile.cpu_output_seconds = layer.short_context_seconds;
  profile.cpu_budgeted_layers = {layer, layer};
  profile.gpus.push_back({.name = "GPU0",
                          .vram_available_bytes = kGiB,
                          .vram_reserve_bytes = 5,
                          .layers = {layer},
                          .output_seconds = {},
                          .copy_to_bytes_per_second = 8e9,
                          .copy_from_bytes_per_second = 7e9,
                          .copy_latency_seconds = 2e-5});
  return profile;
}

TEST(DeviceProfileJson, KeepsEveryFigure) {
  const std::string text = to_json(some_profile());
  const auto back = profile_from_json(text, "test");
  ASSERT_TRUE(back) << back.error().message();
  EXPECT_EQ(to_json(*back), text);
  EXPECT_EQ(back->cpu_layers[1].long_context_seconds.seconds[5], 0.1 + 0.2);
  EXPECT_EQ(back->gpus[0].copy_from_bytes_per_second, 7e9);
}

TEST(DeviceProfileJson, RefusesWhatIsNone) {
  const std::string text = to_json(some_profile());
  for (const std::string& damaged :
       {std::string(), std::string("{}"), text.substr(0, text.size() / 2),
        std::string(text).replace(text.find("1900000000.0"), 12, "\"x\"")}) {
    const auto back = profile_from_json(damaged, "laptop.json");
    ASSERT_FALSE(back) << damaged;
    EXPECT_NE(back.error().message().find("laptop.json"), std::string::npos);
  }
}

// Two plain processes of one computer are told from devices that are emulated on it.
TEST(Hardware, TellsWhichProcessesShareAComputersMemory) {
  const model::TemporaryFolder folder;
  const fs::path root = folder.path();
  const auto write = [&](const char* path, const std::string& text) {
    fs::create_directories((root / path).parent_path());
    std::ofstream(root / path, std::ios::trunc) << text;
  };
  const auto in_network = [&](const char* name) {
    fs::create_directories(root / "proc/self/ns");
    fs::remove(root / "proc/self/ns/net");
    fs::create_symlink(name, root / "proc/self/ns/net");
  };
  write("proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n");
  write("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  write("proc/self/cgroup", "0::/user/terminal1\n");
  in_network("net:[1]");
  EXPECT_EQ(computer_identity(root), "");  // a system that does not say
  write("proc/sys/kernel/random/boot_id", "one\n");
  const std::string one = computer_identity(root);
  EXPECT_EQ(one.size(), 32u);
  EXPECT_EQ(one.find("one"), std::string::npos);  // nothing to recognize the computer by elsewhere

  write("proc/self/cgroup", "0::/user/terminal2\n");
  EXPECT_EQ(computer_identity(root), one);
  // Far less than what is limited: it still has memory of its own.
  write("sys/fs/cgroup/user/terminal2/memory.max", "8000000000\n");
  const std::string limited = computer_identity(root);
  EXPECT_NE(limited, one);
  write("proc/self/cgroup", "0::/user/terminal2/child\n");
  EXPECT_EQ(computer_identity(root), limited);
  write("proc/self/cgroup", "0::/user/terminal1\n");
  EXPECT_EQ(computer_identity(root), one);
  in_network("net:[2]");
  EXPECT_NE(computer_identity(root), one);
  in_network("net:[1]");
  write("proc/sys/kernel/random/boot_id", "two\n");
  EXPECT_NE(computer_identity(root), one);
}

TEST(Hardware, DescribesWhatContainersAllow) {
  const model::TemporaryFolder folder;
  const fs::path root = folder.path();
  const auto write = [&](const char* path, const char* text) {
    fs::create_directories((root / path).parent_path());
    std::ofstream(root / path) << text;
  };
  write("proc/cpuinfo", "model name : Fast 9000\nflags : avx2\nMHz : 1234\n");
  write("proc/self/cgroup", "4:cpu,cpuacct:/small\n0::/\n");
  write("sys/fs/cgroup/cpu/small/cpu.cfs_quota_us", "50000\n");
  const std::string half = hardware_description(2, root);
  EXPECT_NE(half.find("Fast 9000"), std::string::npos);
  EXPECT_EQ(half.find("1234"), std::string::npos);
  EXPECT_EQ(hardware_description(2, root), half);
  write("sys/fs/cgroup/cpu/small/cpu.cfs_quota_us", "100000\n");
  EXPECT_NE(hardware_description(2, root), half);
  EXPECT_NE(hardware_description(1, root), hardware_description(2, root));
}

class ProfileDevice : public testing::Test {
 protected:
  ProfileDevice() : cache_(folder_.path() / "profiles") {
    model::SynthOptions options;
    options.n_layer = 4;
    const fs::path path = folder_.path() / "model.gguf";
    EXPECT_TRUE(model::synthesize(options, path));
    model_.emplace(std::move(*model::ModelFile::open(path)));
    request_.device_name = "laptop";
    request_.classes = {{0, 1, 3}, {2}};
    request_.n_threads = 1;
    request_.limit = std::chrono::milliseconds(400);
  }

  Result<ProfileResult> profile() {
    return profile_device(*model_, request_, cache_, {}, SystemClock());
  }

  const model::TemporaryFolder folder_;
  ProfileCache cache_;
  std::optional<model::ModelFile> model_;
  ProfileRequest request_;
};

void expect_rising(const TokenTimes& times) {
  double before = 0;
  for (const double seconds : times.seconds) {
    EXPECT_GT(seconds, 0);
    EXPECT_GE(seconds, before);
    before = seconds;
  }
}

TEST_F(ProfileDevice, MeasuresEverythingThePlannerAsksFor) {
  const auto result = profile();
  ASSERT_TRUE(result) << result.error().message();
  EXPECT_TRUE(result->measured);
  const DeviceProfile& profile = result->profile;
  EXPECT_GT(profile.memory_available_bytes, 0u);
  EXPECT_GT(profile.disk_read_bytes_per_second, 0);
  EXPECT_GT(profile.compute_buffer_bytes, 0u);
  for (const auto* layers : {&profile.cpu_layers, &profile.cpu_budgeted_layers}) {
    ASSERT_EQ(layers->size(), 2u);
    for (const LayerTimes& times : *layers) {
      expect_rising(times.short_context_seconds);
      expect_rising(times.long_context_seconds);
    }
  }
  expect_rising(profile.cpu_output_seconds);
  expect_rising(profile.cpu_budgeted_output_seconds);
}

TEST_F(ProfileDevice, IsMeasuredOnce) {
  const auto first = profile();
  ASSERT_TRUE(first);
  request_.memory = weights::MemoryBudget{.total = kGiB, .program = 24 * kMiB};
  const auto second = profile();
  ASSERT_TRUE(second);
  EXPECT_FALSE(second->measured);
  EXPECT_EQ(second->profile.cpu_layers[0].short_context_seconds.seconds,
            first->profile.cpu_layers[0].short_context_seconds.seconds);
  EXPECT_EQ(second->profile.memory_available_bytes, kGiB - 24 * kMiB);  // looked at anew
  EXPECT_EQ(second->profile.computer, first->profile.computer);
  request_.memory->was_asked = true;  // so much is this process's own
  EXPECT_EQ(profile()->profile.computer, "");
  request_.n_threads = 2;
  EXPECT_TRUE(profile()->measured);
  request_.fresh = true;
  EXPECT_TRUE(profile()->measured);
}

TEST_F(ProfileDevice, LeavesOutWhatABudgetRulesOut) {
  request_.memory = weights::MemoryBudget{.total = kGiB, .was_asked = true};
  const auto budgeted = profile();
  ASSERT_TRUE(budgeted);
  EXPECT_EQ(budgeted->profile.unbudgeted_up_to_bytes, 0u);
  EXPECT_EQ(budgeted->profile.cpu_layers[0].short_context_seconds.seconds,
            budgeted->profile.cpu_budgeted_layers[0].short_context_seconds.seconds);
  expect_rising(budgeted->profile.cpu_budgeted_output_seconds);
  EXPECT_FALSE(profile()->measured);
  request_.memory.reset();
  EXPECT_TRUE(profile()->measured);  // it is not enough for this one
}

TEST_F(ProfileDevice, OfAllServesWithinABudgetTooUntilMeasuredAnew) {
  const auto all = profile();
  ASSERT_TRUE(all);
  request_.memory = weights::MemoryBudget{.total = kGiB, .was_asked = true};
  EXPECT_FALSE(profile()->measured);
  request_.fresh = true;
  const auto fresh = profile();
  request_.fresh = false;
  EXPECT_EQ(profile()->profile.cpu_budgeted_layers[0].short_context_seconds.seconds,
            fresh->profile.cpu_budgeted_layers[0].short_context_seconds.seconds);
}

TEST_F(ProfileDevice, OfAHeadServesAWorkerToo) {
  ASSERT_TRUE(profile());
  request_.is_head = false;
  request_.device_name = "worker";
  const auto worker = profile();
  ASSERT_TRUE(worker);
  EXPECT_FALSE(worker->measured);
  EXPECT_EQ(worker->profile.name, "worker");
}

TEST_F(ProfileDevice, IsCorrectedByWhatGenerationShows) {
  EXPECT_FALSE(learn_from_generation(*model_, request_, cache_));  // nothing to correct yet
  const auto first = profile();
  ASSERT_TRUE(first);
  const auto slow = std::chrono::seconds(1);
  {
    const auto learn = learn_from_generation(*model_, request_, cache_);
    ASSERT_TRUE(learn);
    for (int i = 0; i < 64; ++i) learn({{0, 1}, 1, 0, false, slow});
  }
  const auto second = profile();
  ASSERT_TRUE(second);
  EXPECT_FALSE(second->measured);
  EXPECT_GT(second->profile.cpu_layers[0].short_context_seconds.seconds[0],
            2 * first->profile.cpu_layers[0].short_context_seconds.seconds[0]);
}

TEST_F(ProfileDevice, IsMeasuredOnceByProcessesThatStartTogether) {
  std::vector<std::future<Result<ProfileResult>>> starting;
  for (int i = 0; i < 3; ++i) {
    starting.push_back(std::async(std::launch::async, [&] { return profile(); }));
  }
  int measured = 0;
  for (auto& started : starting) {
    const auto result = started.get();
    ASSERT_TRUE(result) << result.error().message();
    measured += result->measured;
  }
  EXPECT_EQ(measured, 1);
}

TEST_F(ProfileDevice, IsMeasuredAnewWhereTheCacheIsDamaged) {
  ASSERT_TRUE(profile());
  for (const auto& entry : fs::directory_iterator(folder_.path() / "profiles")) {
    fs::resize_file(entry.path(), fs::file_size(entry.path()) / 2);
  }
  EXPECT_TRUE(profile()->measured);
}

TEST_F(ProfileDevice, CanBeCancelled) {
  const auto cancelled = profile_device(
      *model_, request_, cache_, [](const std::string&, double) { return false; }, SystemClock());
  ASSERT_FALSE(cancelled);
  EXPECT_EQ(cancelled.error().code, ErrorCode::cancelled);
}

TEST(ProfileCacheTest, KeepsLinks) {
  const model::TemporaryFolder folder;
  const ProfileCache cache(folder.path());
  EXPECT_FALSE(cache.find_link("a b"));
  ASSERT_TRUE(cache.store_link("a b", {0.004, 5e7, 4e7, true}));
  ASSERT_TRUE(cache.find_link("a b"));
  EXPECT_EQ(cache.find_link("a b")->backward_bytes_per_second, 4e7);
  EXPECT_FALSE(cache.find_link("b a"));
  cache.forget_link("a b");
  EXPECT_FALSE(cache.find_link("a b"));
}

}  // namespace
}  // namespace prima::profile

// From an offer to what is planned with.
#include "cli/planning.h"

#include <gtest/gtest.h>

#include "compute/executor.h"
#include "plan/cluster_file.h"
#include "plan/halda.h"
#include "plan/named_shapes.h"
#include "profile/device_profile_json.h"

namespace prima::cli {
namespace {

std::string profile_text(const std::string& computer, Bytes memory) {
  profile::DeviceProfile profile;
  profile.computer = computer;
  profile.memory_available_bytes = memory;
  return profile::to_json(profile);
}

std::vector<std::string> names(const OfferedCluster& offered) {
  std::vector<std::string> names;
  for (const auto& device : offered.cluster.devices) names.push_back(device.name);
  return names;
}

ring::RingOffer offer_of(std::vector<ring::OfferedDevice> devices) {
  const std::size_t n = devices.size();
  return {std::move(devices), std::vector<std::optional<profile::LinkProfile>>(n * (n - 1) / 2)};
}

TEST(OfferedCluster, CountsAComputersMemoryOnce) {
  const auto offered = cluster_of(offer_of({{"head", "", profile_text("a", 4 * kGiB), ""},
                                            {"process", "", profile_text("a", 5 * kGiB), ""},
                                            {"small", "", profile_text("b", kGiB), ""},
                                            {"large", "", profile_text("b", 2 * kGiB), ""},
                                            {"alike", "", profile_text("b", 2 * kGiB), ""},
                                            {"phone", "", profile_text("", kGiB), ""},
                                            {"tablet", "", profile_text("", kGiB), ""}}));
  ASSERT_TRUE(offered) << offered.error().message();
  EXPECT_EQ(names(*offered), (std::vector<std::string>{"head", "large", "phone", "tablet"}));
  EXPECT_EQ(offered->devices, (std::vector<std::uint32_t>{0, 3, 5, 6}));
  EXPECT_EQ(offered->cluster.links.size(), 6u);
  ASSERT_EQ(offered->unplanned.size(), 3u);
  EXPECT_EQ(offered->unplanned[0].name, "process");
  EXPECT_NE(offered->unplanned[0].reason.find("same computer as head"), std::string::npos);
  EXPECT_NE(offered->unplanned[1].reason.find("same computer as large"), std::string::npos);
}

TEST(OfferedCluster, LeavesOutWhoHasNoProfile) {
  const auto offered = cluster_of(offer_of({{"head", "", profile_text("a", kGiB), ""},
                                            {"silent", "", "", "it has left"},
                                            {"last", "", profile_text("b", kGiB), ""}}));
  ASSERT_TRUE(offered) << offered.error().message();
  EXPECT_EQ(names(*offered), (std::vector<std::string>{"head", "last"}));
  ASSERT_EQ(offered->unplanned.size(), 1u);
  EXPECT_EQ(offered->unplanned[0].reason, "it has left");
}

// Two devices that hold a model only together, the worker barely.
constexpr const char* kCluster = R"(
head = "laptop"
[[device]]
name = "laptop"
memory = "4 GiB"
disk = "500 MB/s"
cpu = { weights = "30 GB/s", operations_per_second = 3e11 }
[[device]]
name = "desktop"
memory = "1500 MiB"
disk = "500 MB/s"
cpu = { weights = "30 GB/s", operations_per_second = 3e11 }
[network]
round_trip_ms = 1
mbit_per_second = 1000
)";

TEST(PlanWithFittingSteps, LeavesSmallDevicesTheirMemory) {
  const auto shape = plan::named_shape("llama-8b-q4_k").value();
  auto cluster = plan::parse_cluster(kCluster, "test", shape).value();
  for (auto& device : cluster.devices) device.compute_buffer_bytes = 512 * kMiB;
  model::Hyperparameters model{};
  model.n_embd = 4096;
  model.n_ff = 14336;
  const Bytes memory = cluster.devices[1].memory_available_bytes;
  const std::uint32_t fitting = compute::step_tokens_within({.total = memory}, model, 512);
  ASSERT_LT(fitting, 512u);

  const auto plan = plan_with_fitting_steps(cluster, shape, {}, model);
  ASSERT_TRUE(plan) << plan.error().message();
  ASSERT_EQ(plan->ring.size(), 2u);
  EXPECT_EQ(plan->request.step_tokens, fitting);
  EXPECT_EQ(plan->ring[1].compute_buffer_bytes, fitting * kMiB);
  EXPECT_EQ(plan->ring[1].budget_bytes, memory - fitting * kMiB);
  EXPECT_EQ(ring_plan_of(*plan, {0, 1}, {}).max_tokens, fitting);
  const auto large_steps = plan::make_plan(cluster, shape, {});
  ASSERT_TRUE(large_steps);
  EXPECT_LT(plan->tpot_seconds, large_steps->tpot_seconds);

  // A device that was described rather than measured: the program comes off, too.
  for (auto& device : cluster.devices) device.compute_buffer_bytes = 0;
  const auto described = plan_with_fitting_steps(cluster, shape, {}, model);
  ASSERT_TRUE(described);
  EXPECT_EQ(described->ring[1].compute_buffer_bytes, shape.buffer_bytes * fitting / 512);
  EXPECT_EQ(described->ring[1].budget_bytes,
            memory - shape.program_bytes - described->ring[1].compute_buffer_bytes);

  // A device that the plan does not use has no say.
  cluster.devices[0].memory_available_bytes = 16 * kGiB;
  cluster.links[0].round_trip_seconds = 1;
  const auto alone = plan_with_fitting_steps(cluster, shape, {}, model);
  ASSERT_TRUE(alone);
  ASSERT_EQ(alone->ring.size(), 1u);
  EXPECT_EQ(alone->request.step_tokens, 512u);
}

// Four devices that stream: what steps' buffers do not take stays in memory.
TEST(PlanWithFittingSteps, AreSmallerWhereThatIsBetter) {
  const auto shape = plan::named_shape("llama-8b-q4_k").value();
  std::string file = "head = \"0\"\n[network]\nround_trip_ms = 0.6\nmbit_per_second = 940\n";
  for (int i = 0; i < 4; ++i) {
    file += "[[device]]\nname = \"" + std::to_string(i) +
            "\"\nmemory = \"1 GiB\"\ndisk = \"300 MB/s\"\n"
            "cpu = { weights = \"30 GB/s\", operations_per_second = 3e11 }\n";
  }
  const auto cluster = plan::parse_cluster(file, "test", shape).value();
  model::Hyperparameters model{};
  model.n_embd = 4096;
  model.n_ff = 14336;
  const auto plan = plan_with_fitting_steps(cluster, shape, {}, model);
  ASSERT_TRUE(plan) << plan.error().message();
  const Bytes memory = cluster.devices[1].memory_available_bytes;
  plan::Request largest;
  largest.step_tokens = compute::step_tokens_within({.total = memory}, model, 512);
  EXPECT_LT(plan->request.step_tokens, largest.step_tokens);
  EXPECT_GE(plan->request.step_tokens, compute::kFewestStepTokens);
  const auto large_steps = plan::make_plan(cluster, shape, largest);
  ASSERT_TRUE(large_steps);
  EXPECT_LT(plan->tpot_seconds, 1.01 * large_steps->tpot_seconds);
  EXPECT_LT(plan->ring[1].compute_buffer_bytes, large_steps->ring[1].compute_buffer_bytes);
}

// Each step of a prompt would wait a minute for the disk.
TEST(PlanWithFittingSteps, StayLargeWhereEachWouldReadMuch) {
  const auto shape = plan::named_shape("llama-70b-q4_k").value();
  std::string file = "head = \"0\"\n[network]\nround_trip_ms = 0.6\nmbit_per_second = 940\n";
  for (int i = 0; i < 2; ++i) {
    file += "[[device]]\nname = \"" + std::to_string(i) +
            "\"\nmemory = \"6 GiB\"\ndisk = \"200 MB/s\"\n"
            "cpu = { weights = \"60 GB/s\", operations_per_second = 3e12 }\n";
  }
  const auto cluster = plan::parse_cluster(file, "test", shape).value();
  model::Hyperparameters model{};
  model.n_embd = 8192;
  model.n_ff = 28672;
  const auto plan = plan_with_fitting_steps(cluster, shape, {}, model);
  ASSERT_TRUE(plan) << plan.error().message();
  ASSERT_EQ(plan->ring.size(), 2u);
  EXPECT_GE(plan->request.step_tokens, 4 * compute::kFewestStepTokens);
}

}  // namespace
}  // namespace prima::cli

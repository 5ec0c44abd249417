#include "plan/replan.h"

#include <gtest/gtest.h>

#include "plan/cluster_file.h"
#include "plan/halda.h"
#include "plan/named_shapes.h"

namespace prima::plan {
namespace {

constexpr const char* kCluster = R"(
[[device]]
name = "laptop"
memory = "3 GiB"
disk = "500 MB/s"
cpu = { weights = "30 GB/s", operations_per_second = 3e11 }
[[device]]
name = "desktop"
memory = "3 GiB"
disk = "500 MB/s"
cpu = { weights = "30 GB/s", operations_per_second = 3e11 }
[network]
round_trip_ms = 1
mbit_per_second = 900
)";

class Replan : public testing::Test {
 protected:
  void SetUp() override {
    shape = *named_shape("llama-8b-q4_k");
    both = *parse_cluster(kCluster, "test", shape);
    laptop = both;
    laptop.devices.pop_back();
    laptop.links.clear();
    request.objective = Objective::tpot;
  }

  Plan plan_for(const Cluster& cluster) { return *make_plan(cluster, shape, request); }

  ModelShape shape;
  Cluster both;
  Cluster laptop;
  Request request;
};

TEST_F(Replan, KeepsAPlanWhileNothingChanges) {
  const auto result = replan(plan_for(both), both, shape);
  ASSERT_TRUE(result) << result.error().message();
  EXPECT_FALSE(result->worth_it) << result->reason;
}

TEST_F(Replan, ForgetsNothingOfThePlan) {
  const Plan plan = plan_for(both);
  const Problem problem = *make_problem(both, shape, request);
  const auto again = plan_of(problem, *decision_of(plan, problem));
  ASSERT_TRUE(again);
  EXPECT_EQ(again->tpot_seconds, plan.tpot_seconds);
  EXPECT_EQ(again->ttft_seconds, plan.ttft_seconds);
}

TEST_F(Replan, TakesADeviceThatHasJoined) {
  const auto result = replan(plan_for(laptop), both, shape);
  ASSERT_TRUE(result);
  EXPECT_TRUE(result->worth_it);
  EXPECT_NE(result->reason.find("with desktop"), std::string::npos) << result->reason;
  EXPECT_EQ(result->plan.ring.size(), 2u);
}

TEST_F(Replan, GoesOnWithoutADeviceThatHasLeft) {
  const auto result = replan(plan_for(both), laptop, shape);
  ASSERT_TRUE(result);
  EXPECT_TRUE(result->worth_it);
  EXPECT_EQ(result->reason, "desktop is gone");
  EXPECT_EQ(result->plan.ring.size(), 1u);
}

TEST_F(Replan, FollowsMemoryDiskAndLinksThatDriftFarButNotTheirWavering) {
  const Plan plan = plan_for(both);
  const auto worth = [&](auto change) {
    Cluster changed = both;
    change(changed);
    const auto result = replan(plan, changed, shape);
    return result && result->worth_it;
  };
  EXPECT_FALSE(worth([](Cluster& c) { c.devices[1].memory_available_bytes += 100 * kMiB; }));
  EXPECT_FALSE(worth([](Cluster& c) { c.devices[1].disk_read_bytes_per_second *= 0.9; }));
  EXPECT_FALSE(worth([](Cluster& c) { c.links[0].forward_bytes_per_second *= 0.8; }));
  EXPECT_TRUE(worth([](Cluster& c) { c.devices[1].memory_available_bytes = kGiB / 2; }));
  EXPECT_TRUE(worth([](Cluster& c) { c.links[0].round_trip_seconds = 30; }));
}

TEST_F(Replan, FailsWhereNoPlanIsLeft) {
  Cluster tiny = laptop;
  tiny.devices[0].memory_available_bytes = 10 * kMiB;
  const auto result = replan(plan_for(both), tiny, shape);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::resource_exhausted);
}

}  // namespace
}  // namespace prima::plan

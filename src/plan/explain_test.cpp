#include "plan/explain.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "plan/cluster_file.h"
#include "plan/halda.h"
#include "plan/named_shapes.h"
#include "plan/plan_drawing.h"

namespace prima::plan {
namespace {

constexpr const char* kCluster = R"(
head = "laptop"
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
[[device]]
name = "watch"
memory = "160 MiB"
disk = "10 MB/s"
cpu = { weights = "1 GB/s", operations_per_second = 1e9 }
[network]
round_trip_ms = 4
mbit_per_second = 300
shared = true
)";

class Explain : public testing::Test {
 protected:
  void SetUp() override {
    shape = *named_shape("llama-8b-q4_k");
    cluster = *parse_cluster(kCluster, "test", shape);
    request.objective = Objective::tpot;
    auto made = make_plan(cluster, shape, request);
    ASSERT_TRUE(made) << made.error().message();
    plan = *made;
  }

  ModelShape shape;
  Cluster cluster;
  Request request;
  Plan plan;
};

TEST_F(Explain, NamesTheBottleneck) {
  EXPECT_NE(plan.bottleneck.find("Computing"), std::string::npos) << plan.bottleneck;
  cluster.devices[1].memory_available_bytes = kGiB;
  cluster.devices[0].memory_available_bytes = 2 * kGiB;
  const auto starved = make_plan(cluster, shape, request);
  ASSERT_TRUE(starved);
  EXPECT_NE(starved->bottleneck.find("disk"), std::string::npos) << starved->bottleneck;
}

TEST_F(Explain, SaysWhyADeviceIsLeftOut) {
  const auto left_out = left_out_of(plan, cluster, shape);
  ASSERT_TRUE(left_out);
  ASSERT_EQ(left_out->size(), 1u);
  EXPECT_EQ((*left_out)[0].name, "watch");
  EXPECT_FALSE((*left_out)[0].reason.empty());
}

TEST_F(Explain, TellsWhatWouldHelpAndIsRight) {
  cluster.devices[1].memory_available_bytes = kGiB;
  const auto starved = make_plan(cluster, shape, request);
  ASSERT_TRUE(starved);
  const auto answers = what_would_help(*starved, cluster, shape);
  const auto more = std::find_if(answers.begin(), answers.end(), [](const WhatIf& answer) {
    return answer.change == "2 GiB more on desktop";
  });
  ASSERT_NE(more, answers.end());
  cluster.devices[1].memory_available_bytes += 2 * kGiB;
  const auto helped = make_plan(cluster, shape, request);
  ASSERT_TRUE(helped);
  EXPECT_DOUBLE_EQ(more->speedup, starved->objective_seconds / helped->objective_seconds);
  EXPECT_GT(more->speedup, 1.1);
}

TEST_F(Explain, DrawsEveryDevice) {
  plan.ring[0].name = "lap<top>";
  const std::string text = plan_text(plan, cluster, {});
  const std::string svg = plan_svg(plan);
  EXPECT_NE(text.find("lap<top>"), std::string::npos);
  EXPECT_NE(svg.find("lap&lt;top&gt;"), std::string::npos);
  EXPECT_EQ(svg.find("lap<top>"), std::string::npos);
  EXPECT_NE(text.find("desktop"), std::string::npos);
  EXPECT_NE(svg.find("desktop"), std::string::npos);
  EXPECT_EQ(svg.rfind("</svg>\n"), svg.size() - 7);
}

}  // namespace
}  // namespace prima::plan

#include "plan/plan_json.h"

#include <gtest/gtest.h>

#include "plan/halda.h"
#include "plan/random_cluster.h"

namespace prima::plan {
namespace {

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(PlanJson, SaysTheSameAfterWritingAndReading) {
  std::size_t plans = 0;
  std::size_t with_room = 0;
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    RandomCase random = random_case(seed);
    random.request.step_tokens = 64;
    const auto plan = make_plan(random.cluster, random.shape, random.request);
    if (!plan) continue;
    ++plans;
    const auto read = plan_from_json(plan_to_json(*plan), "plan.json");
    ASSERT_TRUE(read) << read.error().message();
    EXPECT_EQ(read->rounds, plan->rounds);
    EXPECT_EQ(read->n_layer, plan->n_layer);
    EXPECT_EQ(read->request.step_tokens, 64u);
    EXPECT_EQ(read->tpot_seconds, plan->tpot_seconds);
    ASSERT_EQ(read->ring.size(), plan->ring.size());
    for (std::size_t i = 0; i < plan->ring.size(); ++i) {
      EXPECT_EQ(read->ring[i].name, plan->ring[i].name);
      EXPECT_EQ(read->ring[i].windows, plan->ring[i].windows);
      EXPECT_EQ(read->ring[i].slot_bytes, plan->ring[i].slot_bytes);
      EXPECT_EQ(read->ring[i].link_format, plan->ring[i].link_format);
      const PromptPlan& prompts = plan->ring[i].prompts;
      EXPECT_EQ(read->ring[i].prompts.gpu, prompts.gpu);
      EXPECT_EQ(read->ring[i].prompts.places, prompts.places);
      EXPECT_EQ(read->ring[i].prompts.room_bytes, prompts.room_bytes);
      EXPECT_EQ(read->ring[i].prompts.gpu_layer_seconds, prompts.gpu_layer_seconds);
      with_room += prompts.gpu >= 0;
    }
  }
  EXPECT_GT(plans, 30u);
  EXPECT_GT(with_room, 0u);
}

TEST(PlanJson, RefusesWhatIsNoPlan) {
  RandomCase random = random_case(4);
  std::uint64_t seed = 4;
  auto plan = make_plan(random.cluster, random.shape, random.request);
  while (!plan) {
    random = random_case(++seed);
    plan = make_plan(random.cluster, random.shape, random.request);
  }
  const std::string good = plan_to_json(*plan);
  ASSERT_TRUE(plan_from_json(good, "plan.json"));
  const std::string layers = "\"n_layer\": " + std::to_string(plan->n_layer);
  for (const std::string& bad :
       {std::string(), std::string("[]"), std::string("{}"), good.substr(0, good.size() / 2),
        replaced(good, "\"rounds\": ", "\"rounds\": 1"), replaced(good, layers, "\"n_layer\": 77"),
        replaced(good, "\"rounds\": ", "\"rounds\": \"x\", \"no\": "),
        replaced(good, "\"version\": 3", "\"version\": 2"),
        replaced(good, "\"gpu\": ", "\"gpu\": 7, \"no\": "),
        replaced(good, "\"step_tokens\": 512", "\"step_tokens\": 0")}) {
    const auto read = plan_from_json(bad, "plan.json");
    ASSERT_FALSE(read) << bad;
    EXPECT_NE(read.error().what.find("plan.json"), std::string::npos);
  }
}

}  // namespace
}  // namespace prima::plan

#include "plan/halda.h"

#include <gtest/gtest.h>

#include "plan/cluster_file.h"
#include "plan/explain.h"
#include "plan/named_shapes.h"
#include "plan/ratings.h"

namespace prima::plan {
namespace {

// `count` like devices on fast cables.
Cluster even_cluster(std::size_t count, const ModelShape& shape, double memory_gib, double disk) {
  Cluster cluster;
  for (std::size_t i = 0; i < count; ++i) {
    profile::DeviceProfile& device = cluster.devices.emplace_back();
    device.name = "node" + std::to_string(i);
    device.memory_available_bytes = static_cast<Bytes>(memory_gib * static_cast<double>(kGiB));
    device.disk_read_bytes_per_second = disk;
    const BackendRating cpu{30e9, 3.6e11, 20e-6};
    for (const LayerClass& layer : shape.classes) {
      device.cpu_layers.push_back(rated_layer_times(layer, cpu));
    }
    device.cpu_output_seconds = rated_output_times(shape, cpu);
  }
  cluster.links.assign(link_count(count), {0.001, 1e8, 1e8, false});
  return cluster;
}

TEST(Halda, UsesOneDeviceWhereTheModelFitsIt) {
  const ModelShape shape = *named_shape("llama-8b-q4_k");
  const auto plan = make_plan(even_cluster(4, shape, 16, 2e9), shape, {});
  ASSERT_TRUE(plan) << plan.error().message();
  // Several sequences or a long prompt could use more; one answer of 256 tokens can't.
  Request request;
  request.objective = Objective::tpot;
  const auto fastest = make_plan(even_cluster(4, shape, 16, 2e9), shape, request);
  ASSERT_TRUE(fastest);
  EXPECT_EQ(fastest->ring.size(), 1u);
  EXPECT_EQ(fastest->rounds, 1u);
  EXPECT_LE(plan->objective_seconds, fastest->ttft_seconds + 256 * fastest->tpot_seconds);
}

TEST(Halda, AsksNoDeviceForWhatIsHardlyAGain) {
  const ModelShape shape = *named_shape("llama-8b-q4_k");
  Cluster cluster = even_cluster(2, shape, 16, 2e9);
  // A long answer to a short prompt: half the prompt's time is all a second device could save.
  Request request;
  request.prompt_tokens = 16;
  request.answer_tokens = 1024;
  const auto plan = make_plan(cluster, shape, request);
  ASSERT_TRUE(plan) << plan.error().message();
  EXPECT_EQ(plan->ring.size(), 1u);
  request.prompt_tokens = 4096;
  request.n_ctx = 8192;
  request.answer_tokens = 16;
  const auto prefill = make_plan(cluster, shape, request);
  ASSERT_TRUE(prefill) << prefill.error().message();
  EXPECT_EQ(prefill->ring.size(), 2u);
}

TEST(Halda, MakesMoreRoundsWhereDisksAreTheBottleneckAndOneWhereNot) {
  Request request;
  request.objective = Objective::tpot;
  const ModelShape large = *named_shape("llama-70b-q4_k");
  Request one_round = request;
  one_round.max_rounds = 1;
  const auto many = make_plan(even_cluster(4, large, 8, 2e9), large, request);
  const auto one = make_plan(even_cluster(4, large, 8, 2e9), large, one_round);
  ASSERT_TRUE(many && one);
  EXPECT_GE(many->rounds, 2u);
  EXPECT_LT(many->tpot_seconds, 0.75 * one->tpot_seconds);

  const ModelShape small = *named_shape("llama-30b-q4_k");
  const auto fits = make_plan(even_cluster(4, small, 8, 2e9), small, request);
  ASSERT_TRUE(fits);
  EXPECT_EQ(fits->rounds, 1u);
}

TEST(Halda, SaysTheSmallestChangeWhereNothingFits) {
  const ModelShape shape = *named_shape("llama-8b-q4_k");
  Request request;
  request.n_ctx = 100'000;  // 12.2 GiB of cache
  const Cluster cluster = even_cluster(1, shape, 8, 2e9);
  const auto plan = make_plan(cluster, shape, request);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, ErrorCode::resource_exhausted);
  EXPECT_NE(plan.error().remedy.find("GiB more memory on node0"), std::string::npos)
      << plan.error().remedy;
  const auto at = plan.error().remedy.find("context of ");
  ASSERT_NE(at, std::string::npos) << plan.error().remedy;
  // What is offered works.
  request.n_ctx = static_cast<std::uint32_t>(std::stoul(plan.error().remedy.substr(at + 11)));
  EXPECT_TRUE(make_plan(cluster, shape, request));
}

// The bytes of "1.25 GiB more memory on node1 would be enough", by device.
std::pair<std::string, Bytes> offered_memory(const std::string& remedy) {
  const auto more = remedy.find(" more memory on ");
  EXPECT_NE(more, std::string::npos) << remedy;
  const auto name = more + std::string(" more memory on ").size();
  return {remedy.substr(name, remedy.find(' ', name) - name), *parse_bytes(remedy.substr(0, more))};
}

TEST(Halda, WhatItOffersWhereNothingFitsIsEnoughAndHardlyMore) {
  const ModelShape shape = *named_shape("llama-8b-q4_k");
  Cluster no_disks = even_cluster(2, shape, 1, 0);  // nothing can be streamed, nothing fits
  Cluster tiny = even_cluster(2, shape, 0.1, 2e9);  // not even slots fit
  for (const Cluster& cluster : {no_disks, tiny}) {
    const auto plan = make_plan(cluster, shape, {});
    ASSERT_FALSE(plan);
    EXPECT_EQ(plan.error().code, ErrorCode::resource_exhausted);
    const auto [name, bytes] = offered_memory(plan.error().remedy);
    const auto with = [&](double share) {
      Cluster changed = cluster;
      for (profile::DeviceProfile& device : changed.devices) {
        if (device.name != name) continue;
        device.memory_available_bytes += static_cast<Bytes>(share * static_cast<double>(bytes));
      }
      return make_plan(changed, shape, {}).has_value();
    };
    EXPECT_TRUE(with(1.01)) << plan.error().remedy;  // as printed, rounded
    EXPECT_FALSE(with(0.9)) << plan.error().remedy;
  }
}

TEST(Halda, OffersToLeaveADeviceWithoutMemoryOut) {
  const ModelShape shape = *named_shape("llama-8b-q4_k");
  Cluster cluster = even_cluster(2, shape, 8, 2e9);
  cluster.devices[1].memory_available_bytes = 0;
  const auto plan = make_plan(cluster, shape, {});
  ASSERT_FALSE(plan);
  EXPECT_NE(plan.error().what.find("node1"), std::string::npos) << plan.error().what;
  EXPECT_NE(plan.error().remedy.find("Leave it out"), std::string::npos) << plan.error().remedy;
  EXPECT_TRUE(make_plan(even_cluster(1, shape, 8, 2e9), shape, {}));
}

TEST(Halda, RefusesProfilesThatCannotBe) {
  const ModelShape shape = *named_shape("llama-8b-q4_k");
  const auto refused = [&](auto change) {
    Cluster cluster = even_cluster(2, shape, 8, 2e9);
    change(cluster);
    const auto plan = make_plan(cluster, shape, {});
    return !plan && plan.error().code == ErrorCode::invalid_argument;
  };
  EXPECT_TRUE(refused([](Cluster& c) { c.devices[1].memory_available_bytes = 0; }));
  EXPECT_TRUE(refused([](Cluster& c) { c.devices[1].cpu_layers.clear(); }));
  EXPECT_TRUE(refused([](Cluster& c) { c.devices[1].disk_read_bytes_per_second = -1; }));
  EXPECT_TRUE(refused([](Cluster& c) { c.devices[1].name = c.devices[0].name; }));
  EXPECT_TRUE(refused([](Cluster& c) { c.links[0].forward_bytes_per_second = 0; }));
  EXPECT_TRUE(refused([](Cluster& c) { c.links.clear(); }));
  EXPECT_TRUE(refused([](Cluster& c) { c.devices.clear(); }));
  EXPECT_TRUE(
      refused([](Cluster& c) { c.devices[0].cpu_layers[0].short_context_seconds.seconds[3] = 0; }));
}

// A model far too large for a fast GPU beside a slow processor.
class GpuTooSmall : public testing::Test {
 protected:
  void SetUp() override {
    cluster = even_cluster(1, shape, 64, 2e9);
    profile::DeviceProfile& device = cluster.devices.front();
    device.unbudgeted_up_to_bytes = 0;
    profile::GpuProfile& gpu = device.gpus.emplace_back();
    gpu.name = "GPU0";
    gpu.vram_available_bytes = 8 * kGiB;
    const BackendRating rating{400e9, 2e13, 50e-6};
    for (const LayerClass& layer : shape.classes) {
      gpu.layers.push_back(rated_layer_times(layer, rating));
    }
    gpu.copy_to_bytes_per_second = gpu.copy_from_bytes_per_second = 12e9;
  }

  DevicePlan plan_of_device() {
    plan = *make_plan(cluster, shape, request);
    return plan.ring.front();
  }

  const ModelShape shape = *named_shape("llama-70b-q4_k");
  Cluster cluster;
  Request request;
  Plan plan;
};

TEST_F(GpuTooSmall, HasRoomLeftForLongPromptsAndNoneForDecodingAlone) {
  const DevicePlan answer = plan_of_device();
  const double ttft = plan.ttft_seconds;
  EXPECT_EQ(answer.prompts.gpu, 0);
  EXPECT_GT(answer.prompts.places, 0u);
  EXPECT_LE(answer.vram_bytes[0] + answer.prompts.room_bytes, answer.vram_budget_bytes[0]);
  EXPECT_LT(answer.prompts.gpu_layer_seconds, answer.prompts.processor_layer_seconds);

  request.objective = Objective::tpot;
  const DevicePlan tpot = plan_of_device();
  EXPECT_EQ(tpot.prompts.gpu, -1);
  EXPECT_GT(tpot.windows[0].gpu_layers[0], answer.windows[0].gpu_layers[0]);
  EXPECT_LT(ttft, 0.2 * plan.ttft_seconds);
}

TEST_F(GpuTooSmall, IsFilledWherePromptsAreShortOrMayNotVisit) {
  request.prompt_tokens = 16;
  EXPECT_EQ(plan_of_device().prompts.gpu, -1);
  request.prompt_tokens = 512;
  cluster.devices[0].offload_from_tokens = 600;
  EXPECT_EQ(plan_of_device().prompts.gpu, -1);
  cluster.devices[0].offload_from_tokens.reset();
  EXPECT_EQ(plan_of_device().prompts.gpu, -1);
  cluster.devices[0].offload_from_tokens = 500;
  EXPECT_EQ(plan_of_device().prompts.from_tokens, 500u);
}

TEST_F(GpuTooSmall, IsFilledWhereCopiesAreSlow) {
  cluster.devices[0].gpus[0].copy_to_bytes_per_second = 0.1e9;
  EXPECT_EQ(plan_of_device().prompts.gpu, -1);
}

TEST(Halda, IsDeterministic) {
  const ModelShape shape = *named_shape("llama-70b-q4_k_m");
  const Cluster cluster = even_cluster(3, shape, 6, 1e9);
  const auto a = make_plan(cluster, shape, {});
  const auto b = make_plan(cluster, shape, {});
  ASSERT_TRUE(a && b);
  EXPECT_EQ(a->objective_seconds, b->objective_seconds);
  EXPECT_EQ(a->n_simulated, b->n_simulated);
}

}  // namespace
}  // namespace prima::plan

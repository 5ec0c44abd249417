#include "plan/prompt_visits.h"

#include <gtest/gtest.h>

#include "plan/halda.h"

namespace prima::plan {
namespace {

constexpr double kMs = 1e-3;

// Ten layers of 100 MB. The processor takes 1 ms for each token, the GPU 1 ms for any number.
class PromptVisits : public testing::Test {
 protected:
  void SetUp() override {
    shape.name = "ten";
    shape.n_embd = 1000;
    LayerClass& layer = shape.classes.emplace_back();
    layer.dense_bytes = 100'000'000;
    layer.kv_bytes_per_token = 1000;
    shape.layers.assign(10, 0);

    profile::DeviceProfile& device = cluster.devices.emplace_back();
    device.name = "desktop";
    device.memory_available_bytes = 10 * kGiB;
    device.unbudgeted_up_to_bytes = 0;
    device.disk_read_bytes_per_second = 1e9;
    profile::LayerTimes& cpu = device.cpu_layers.emplace_back();
    profile::GpuProfile& gpu = device.gpus.emplace_back();
    gpu.name = "GPU0";
    gpu.vram_available_bytes = kGiB;
    gpu.copy_to_bytes_per_second = gpu.copy_from_bytes_per_second = 1e10;
    profile::LayerTimes& on_gpu = gpu.layers.emplace_back();
    for (std::size_t i = 0; i < profile::kTimedTokens.size(); ++i) {
      cpu.short_context_seconds.seconds[i] = profile::kTimedTokens[i] * kMs;
      on_gpu.short_context_seconds.seconds[i] = kMs;
    }
    device.cpu_output_seconds = cpu.short_context_seconds;
  }

  profile::DeviceProfile& device() { return cluster.devices.front(); }
  Visit visit(bool budgeted) { return {device(), device().gpus.front(), budgeted}; }
  std::uint32_t from(bool budgeted = true) {
    return visits_from_tokens(visit(budgeted), shape, request);
  }

  // All layers on the processor, room for two.
  double ttft_with_room() {
    const Problem problem = *make_problem(cluster, shape, request);
    Decision decision;
    decision.hop_formats = {LinkFormat::f32};
    decision.ring = {{.device = 0, .n_layers = 10, .gpu_layers = {0}, .room = {0, 2}}};
    return plan_of(problem, decision)->ttft_seconds;
  }

  ModelShape shape;
  Cluster cluster;
  Request request;
};

TEST_F(PromptVisits, TakeAsLongAsCopiesAndComputing) {
  const VisitSeconds seconds = visit_seconds(visit(true), shape, 0, 512, 256);
  EXPECT_NEAR(seconds.in, 10.0512 * kMs, 1e-9);  // weights and 512 cells
  EXPECT_NEAR(seconds.computing, kMs, 1e-9);
  EXPECT_NEAR(seconds.out, 0.0512 * kMs, 1e-9);
  EXPECT_NEAR(seconds.hidden, 2 * 0.2048 * kMs, 1e-9);
  EXPECT_NEAR(seconds.of_layer(1), 11.1024 * kMs, 1e-9);  // one after the other
  EXPECT_NEAR(seconds.of_layer(2), 10.1024 * kMs, 1e-9);  // one beside the other
  EXPECT_NEAR(seconds.of_run(1), 0.4096 * kMs, 1e-9);
  EXPECT_NEAR(seconds.of_run(2), 1.4096 * kMs, 1e-9);
}

TEST_F(PromptVisits, ReadTheFileWhereWeightsAreInTheProcessorsOwnLayout) {
  EXPECT_NEAR(visit_seconds(visit(false), shape, 0, 512, 256).in, 110.0512 * kMs, 1e-9);
  device().disk_read_bytes_per_second = 0;
  EXPECT_EQ(from(false), kNeverVisits);
}

TEST_F(PromptVisits, BeginWhereTheyAreFaster) {
  EXPECT_EQ(from(), 32u);  // always
  // Copying takes 100 ms, computing 1 ms, and a token's cells and hidden states 10 us.
  device().gpus[0].copy_to_bytes_per_second = device().gpus[0].copy_from_bytes_per_second = 1e9;
  EXPECT_EQ(from(), 103u);
  EXPECT_EQ(from(false), 204u);
  request.step_tokens = 102;
  EXPECT_EQ(from(), kNeverVisits);
  device().offload_from_tokens = 40;
  EXPECT_EQ(from(), 40u);
  device().offload_from_tokens.reset();
  EXPECT_EQ(from(), kNeverVisits);
}

TEST_F(PromptVisits, TakeRoomForLayersTheirCacheAndBuffers) {
  shape.gpu_activation_bytes = 1000;
  shape.gpu_scratch_bytes = 7;
  shape.gpu_matrix_bytes = 5;
  const Bytes layer = 100'000'000 + 4096 * 1000;
  const Bytes buffers = 512 * (1000 + 4 * 4096) + 7 + 5;
  EXPECT_EQ(visit_room_bytes(shape, request, 1), layer + buffers);
  EXPECT_EQ(visit_room_bytes(shape, request, 2), 2 * layer + buffers);
}

TEST_F(PromptVisits, AreInTheTimeToTheFirstToken) {
  EXPECT_NEAR(ttft_with_room(), (10 * 10.1024 + 1.4096) * kMs, 1e-8);
  // In two steps of 256 tokens every layer goes over twice, with 384 cells on average.
  request.step_tokens = 256;
  EXPECT_NEAR(ttft_with_room(), 2 * (10 * 10.064 + 1.2048) * kMs, 1e-8);
  // Too few tokens: the processor computes them.
  request.prompt_tokens = 16;
  EXPECT_NEAR(ttft_with_room(), 160 * kMs, 1e-8);
}

}  // namespace
}  // namespace prima::plan

// A plan that leaves room in a GPU's memory for prompts is run so: with a stand-in for the GPU,
// from the model's file through plan and share to the executor.
#include <optional>

#include <gtest/gtest.h>

#include "cli/planning.h"
#include "compute/executor.h"
#include "compute/kv_cells.h"
#include "compute/test_rpc_server.h"
#include "model/synth.h"
#include "model/testing/temporary_folder.h"
#include "plan/halda.h"
#include "plan/model_shape_of.h"
#include "plan/plan_json.h"

namespace prima::cli {
namespace {

constexpr std::uint32_t kContext = 512;
constexpr std::uint32_t kMaxTokens = 64;
constexpr std::uint32_t kFrom = 32;

[[maybe_unused]] auto* const g_stand_in =
    testing::AddGlobalTestEnvironment(new compute::GpuStandIn);

class PlannedOffload : public testing::Test {
 protected:
  void SetUp() override {
    const auto path = folder_.path() / "model.gguf";
    const auto made = model::synthesize({.n_layer = 6}, path);
    ASSERT_TRUE(made) << made.error().message();
    model_.emplace(model::ModelFile::open(path).value());
    shape_ = plan::shape_of(*model_, sizeof(std::uint16_t));

    request_.n_ctx = kContext;
    request_.prompt_tokens = 256;
    request_.step_tokens = kMaxTokens;
    profile::DeviceProfile& device = cluster_.devices.emplace_back();
    device.name = "desktop";
    device.memory_available_bytes = kGiB;
    device.disk_read_bytes_per_second = 1e9;
    device.offload_from_tokens = kFrom;
    device.unbudgeted_up_to_bytes = 0;
    profile::GpuProfile& gpu = device.gpus.emplace_back();
    gpu.name = compute::list_gpus().front().name;
    for (std::size_t i = 0; i < shape_.classes.size(); ++i) {
      // Slow for a token, fast for many: layers live in memory, and visit for prompts.
      device.cpu_layers.push_back(times(0, 1e-3));
      gpu.layers.push_back(times(5e-3, 0));
    }
    device.cpu_output_seconds = times(0, 1e-3).short_context_seconds;
    gpu.copy_to_bytes_per_second = gpu.copy_from_bytes_per_second = 1e10;
    limit_ = plan::gpu_buffer_bytes(shape_, request_) +
             plan::visit_room_bytes(shape_, request_, 2) +
             2 * (model_->layer_bytes(0) + plan::kv_bytes(shape_.classes[0], kContext));
    gpu.vram_available_bytes = limit_;
  }

  static profile::LayerTimes times(double once, double per_token) {
    profile::LayerTimes times;
    for (std::size_t i = 0; i < profile::kTimedTokens.size(); ++i) {
      times.short_context_seconds.seconds[i] = once + per_token * profile::kTimedTokens[i];
    }
    return times;
  }

  // As the head runs it, from the plan's own file.
  std::unique_ptr<compute::Executor> executor_of(const plan::Plan& plan) {
    const plan::Plan read = plan::plan_from_json(plan::plan_to_json(plan), "plan").value();
    compute::ExecutorOptions options{.windows = {{0, 6}},
                                     .n_ctx = kContext,
                                     .max_tokens = kMaxTokens,
                                     .n_threads = 1,
                                     .gpu = {.memory_limit = limit_},
                                     .offload_from_tokens = kFrom,
                                     .yields_memory = false};
    options.memory = weights::MemoryBudget{.total = kGiB, .was_asked = true};
    options.on_computed = [this](const compute::ComputedLayers& computed) {
      tokens_on_processor_ = computed.n_tokens;
    };
    ring::apply(ring_plan_of(read, {0}, {}).shares.front(), options);
    auto executor = compute::Executor::create(*model_, options);
    EXPECT_TRUE(executor) << executor.error().message();
    return executor ? std::move(*executor) : nullptr;
  }

  // Of a prompt; how many tokens the processor has computed layers for.
  std::uint32_t tokens_on_processor(compute::Executor& executor) {
    compute::Step step;
    for (std::uint32_t i = 0; i < kMaxTokens; ++i) {
      step.sequences.push_back(0);
      step.positions.push_back(static_cast<std::int32_t>(i));
    }
    step.outputs = {kMaxTokens - 1};
    compute::KvCells cells(kContext);
    EXPECT_TRUE(cells.place(step));
    std::vector<float> hidden;
    EXPECT_TRUE(executor.embed(std::vector<std::int32_t>(kMaxTokens, 3), hidden));
    EXPECT_TRUE(executor.begin(step));
    tokens_on_processor_ = 0;
    EXPECT_TRUE(executor.run({0, 6}, step, hidden));
    return tokens_on_processor_;
  }

  model::TemporaryFolder folder_;
  std::optional<model::ModelFile> model_;
  plan::ModelShape shape_;
  plan::Cluster cluster_;
  plan::Request request_;
  Bytes limit_ = 0;
  std::uint32_t tokens_on_processor_ = 0;
};

TEST_F(PlannedOffload, UsesTheRoomThatThePlanLeaves) {
  const auto plan = plan::make_plan(cluster_, shape_, request_);
  ASSERT_TRUE(plan) << plan.error().message();
  const plan::DevicePlan& device = plan->ring.front();
  ASSERT_EQ(device.prompts.gpu, 0);
  EXPECT_EQ(device.prompts.from_tokens, kFrom);
  ASSERT_LT(device.windows[0].gpu_layers[0], 6u);
  const auto executor = executor_of(*plan);
  ASSERT_NE(executor, nullptr);
  EXPECT_EQ(tokens_on_processor(*executor), 0u);
  EXPECT_LE(executor->memory().gpu, limit_);
  // All of it: weights and cells of as many layers as there are places.
  EXPECT_GT(executor->memory().gpu,
            device.vram_bytes[0] +
                device.prompts.places *
                    (model_->layer_bytes(0) + plan::kv_bytes(shape_.classes[0], kContext)));
}

TEST_F(PlannedOffload, LeavesPromptsToTheProcessorWhereThePlanLeavesNone) {
  request_.objective = plan::Objective::tpot;
  const auto plan = plan::make_plan(cluster_, shape_, request_);
  ASSERT_TRUE(plan) << plan.error().message();
  EXPECT_EQ(plan->ring.front().prompts.gpu, -1);
  const auto executor = executor_of(*plan);
  ASSERT_NE(executor, nullptr);
  EXPECT_EQ(tokens_on_processor(*executor), kMaxTokens);
  EXPECT_LE(executor->memory().gpu, limit_);
}

}  // namespace
}  // namespace prima::cli

// GPU layers, on ggml's RPC device served by a process of this test: it has memory of its own and
// real copies, so what works with it needs no CPU pointers.
#include "compute/gpu.h"

#include <filesystem>
#include <string>

#include <gtest/gtest.h>
#include <unistd.h>

#include "compute/forward_session.h"
#include "compute/test_logits.h"
#include "compute/test_rpc_server.h"
#include "model/synth.h"

namespace prima::compute {
namespace {

constexpr std::uint32_t kContext = 256;

class GpuTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    server_ = new RpcServer;  // before any thread of this process
    path_ = std::filesystem::temp_directory_path() /
            ("prima-gpu-test-" + std::to_string(::getpid()) + ".gguf");
    model::SynthOptions options;
    options.n_layer = 4;
    options.n_embd = 256;
    options.n_ff = 512;
    options.n_head = 4;
    options.n_head_kv = 2;
    options.n_vocab = 512;
    options.mixture = "Q4_K_M";
    const auto made = model::synthesize(options, path_);
    ASSERT_TRUE(made) << made.error().message();
    const Status connected = server_->connect();
    ASSERT_TRUE(connected) << connected.error().message();
  }
  static void TearDownTestSuite() {
    std::filesystem::remove(path_);
    delete server_;
  }

  static model::ModelFile open_model() { return std::move(*model::ModelFile::open(path_)); }

  static ExecutorOptions cpu_only() {
    // The server computes weights as they lie in the file; so must the CPU here, for the
    // comparison.
    return {
        .windows = {{0, 4}}, .n_ctx = kContext, .max_tokens = 64, .n_threads = 1, .repack = false};
  }

  static std::vector<float> logits(const model::ModelFile& model, const ExecutorOptions& options) {
    auto executor = Executor::create(model, options);
    EXPECT_TRUE(executor) << executor.error().message();
    if (!executor) return {};
    ForwardSession session(**executor, 4, kContext, 64);
    std::vector<std::int32_t> prompt(100);
    for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int>(5 * i % 500) + 3;
    auto result = session.decode(prompt);
    EXPECT_TRUE(result) << result.error().message();
    return result ? *result : std::vector<float>{};
  }

  inline static RpcServer* server_ = nullptr;
  inline static std::filesystem::path path_;
};

TEST_F(GpuTest, AnyNumberOfGpuLayersGivesTheSameLogits) {
  const model::ModelFile model = open_model();
  const std::vector<float> expected = logits(model, cpu_only());
  ASSERT_EQ(expected.size(), 512u);
  const std::vector<GpuInfo> gpus = list_gpus();
  ASSERT_FALSE(gpus.empty());
  for (std::uint32_t n_layers = 1; n_layers <= 5; ++n_layers) {
    SCOPED_TRACE(n_layers);
    ExecutorOptions options = cpu_only();
    auto placements = place_on_gpus(model, options, {.n_layers = n_layers}, gpus);
    ASSERT_TRUE(placements) << placements.error().message();
    EXPECT_EQ(placements->back().output_layer, n_layers == 5);
    options.gpus = *placements;
    const std::vector<float> actual = logits(model, options);
    ASSERT_EQ(actual.size(), expected.size());
    EXPECT_LT(relative_rms(actual, expected), 1e-3);
  }
}

TEST_F(GpuTest, LayersInTheMiddleGoToAndFro) {
  const model::ModelFile model = open_model();
  ExecutorOptions options = cpu_only();
  const std::vector<float> expected = logits(model, options);
  options.gpus = {{.device = list_gpus().front().name, .layers = {{0, 1}, {2, 3}}}};
  const std::vector<float> actual = logits(model, options);
  ASSERT_EQ(actual.size(), expected.size());
  EXPECT_LT(relative_rms(actual, expected), 1e-3);
}

TEST_F(GpuTest, GpusAreFilledInOrderAndAreRefusedWhereTheyAreTooSmall) {
  const model::ModelFile model = open_model();
  const Bytes layer = model.layer_bytes(0);
  ExecutorOptions options = cpu_only();
  // Room for compute buffers is what place_on_gpus() needs beside layers; ask it by one GPU.
  Bytes room = layer;
  while (!place_on_gpus(model, options, {.n_layers = 2},
                        std::vector<GpuInfo>{{.name = "A", .memory_free = room}})) {
    room += layer / 4;
    ASSERT_LT(room, kGiB);
  }
  const std::vector<GpuInfo> two{{.name = "A", .memory_free = room},
                                 {.name = "B", .memory_free = room}};
  const auto placements = place_on_gpus(model, options, {.n_layers = 4}, two);
  ASSERT_TRUE(placements) << placements.error().message();
  ASSERT_EQ(placements->size(), 2u);
  EXPECT_EQ((*placements)[0].layers, (std::vector<LayerRange>{{0, 2}}));
  EXPECT_EQ((*placements)[1].layers, (std::vector<LayerRange>{{2, 4}}));

  const auto refused = place_on_gpus(model, options, {.n_layers = 3}, std::span(two).first(1));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::resource_exhausted);
  EXPECT_NE(refused.error().message().find("--gpu-layers 2"), std::string::npos);

  const auto capped = place_on_gpus(model, options, {.n_layers = 1, .memory_limit = kMiB}, two);
  ASSERT_FALSE(capped);
  EXPECT_EQ(capped.error().code, ErrorCode::resource_exhausted);
}

TEST_F(GpuTest, NoGpuAndAnUnknownGpuAreSaidSo) {
  const model::ModelFile model = open_model();
  ExecutorOptions options = cpu_only();
  const auto none = place_on_gpus(model, options, {.n_layers = 1}, {});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::not_found);
  options.gpus = {{.device = "NoSuchGpu7", .layers = {{0, 1}}}};
  const auto executor = Executor::create(model, options);
  ASSERT_FALSE(executor);
  EXPECT_NE(executor.error().message().find("NoSuchGpu7"), std::string::npos);
}

}  // namespace
}  // namespace prima::compute

// The ring over real sockets, in one process on fake executors: what the simulation cannot show,
// namely that nothing of the process grows with the number of requests or of rings.
#include <atomic>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "ring/fake_executor.h"
#include "ring/remote_ring.h"
#include "ring/test_driver.h"
#include "ring/test_ring.h"
#include "ring/worker.h"
#include "transport/cluster_key.h"
#include "transport/zmq_network.h"

namespace prima::ring {
namespace {

constexpr std::uint32_t kLayers = 8;
constexpr std::uint32_t kWorkers = 3;

struct Footprint {
  std::ptrdiff_t descriptors = 0;
  std::ptrdiff_t threads = 0;
  std::ptrdiff_t resident_kib = 0;
};

std::ptrdiff_t entries(const char* folder) {
  return std::distance(std::filesystem::directory_iterator(folder), {});
}

Footprint footprint() {
  Footprint now{entries("/proc/self/fd"), entries("/proc/self/task"), 0};
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word == "VmRSS:") status >> now.resident_kib;
  }
  return now;
}

class SocketRing : public testing::Test {
 protected:
  void SetUp() override {
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP() << "ZeroMQ is not instrumented, so what its queues order is taken for races";
#endif
    transport::ClusterKey key;
    key.stretched.fill(9);
    keys_ = transport::derive_keys(key);
    head_network_ = transport::make_zmq_network(keys_);
    for (std::uint32_t i = 0; i < kWorkers; ++i) {
      networks_.push_back(transport::make_zmq_network(keys_));
      workers_.push_back(
          Worker::create(
              *networks_.back(),
              {.device_name = "worker" + std::to_string(i + 1),
               .find_heads =
                   [this] {
                     const std::uint16_t port = port_;
                     return port == 0 ? std::vector<transport::Endpoint>{}
                                      : std::vector<transport::Endpoint>{{"127.0.0.1", port}};
                   },
               .make_executor = [](const Assignment& assignment, const compute::LoadProgress&)
                   -> Result<std::unique_ptr<compute::Executor>> {
                 compute::ExecutorOptions options;
                 options.windows = windows_of(assignment.route, assignment.device);
                 options.n_ctx = assignment.n_ctx;
                 return std::make_unique<FakeExecutor>(options, kLayers);
               },
               .on_status = {}})
              .value());
      threads_.push_back(networks_.back()->start_thread(
          "worker", [worker = workers_.back().get()] { worker->run(); }));
    }
  }
  void TearDown() override {
    for (const auto& worker : workers_) worker->stop();
    threads_.clear();
  }

  std::unique_ptr<RemoteRing> form() {
    return RemoteRing::form(
               *head_network_, fake_model(kLayers), fake_ring_options(kWorkers),
               [](const compute::ExecutorOptions& options,
                  const compute::LoadProgress&) -> Result<std::unique_ptr<compute::Executor>> {
                 return std::make_unique<FakeExecutor>(options, kLayers);
               },
               [this](std::uint16_t port) -> Result<std::shared_ptr<void>> {
                 port_ = port;
                 // Told until the ring has formed, as form_ring does.
                 return std::shared_ptr<void>(&port_, [this](void*) { port_ = 0; });
               })
        .value();
  }

  transport::DerivedKeys keys_;
  std::atomic<std::uint16_t> port_{0};
  std::unique_ptr<transport::Network> head_network_;
  std::vector<std::unique_ptr<transport::Network>> networks_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<transport::Thread>> threads_;
  const SystemClock clock_{};
};

TEST_F(SocketRing, ServesAThousandRequestsWithoutGrowing) {
  const auto ring = form();
  RingDriver driver(*ring, clock_);
  const std::vector<DriverSequence> request{{.prompt = {1, 2, 3, 4, 5, 6}, .n_decode = 3}};
  const auto expected = driver.generate(request);
  ASSERT_TRUE(expected) << expected.error().message();
  Footprint before;
  for (int i = 0; i < 1000; ++i) {
    if (i == 200) before = footprint();  // buffers have found their sizes
    const auto result = driver.generate(request);
    ASSERT_TRUE(result) << "request " << i << ": " << result.error().message();
    ASSERT_EQ(*result, *expected) << "request " << i;
  }
  const Footprint after = footprint();
  EXPECT_EQ(after.descriptors, before.descriptors);
  EXPECT_EQ(after.threads, before.threads);
#ifndef __SANITIZE_ADDRESS__  // it keeps freed memory
  EXPECT_LE(after.resident_kib, before.resident_kib + 2048);
#endif
}

TEST_F(SocketRing, FormsAgainAndAgainWithoutGrowing) {
  const std::vector<DriverSequence> request{{.prompt = {1, 2, 3}, .n_decode = 2}};
  Footprint before;
  for (int i = 0; i < 12; ++i) {
    const auto ring = form();
    const auto result = RingDriver(*ring, clock_).generate(request);
    ASSERT_TRUE(result) << result.error().message();
    if (i == 3) before = footprint();
    if (i == 11) {
      const Footprint after = footprint();
      EXPECT_LE(after.descriptors, before.descriptors + 8);  // some are still being closed
      EXPECT_EQ(after.threads, before.threads);
    }
  }
}

}  // namespace
}  // namespace prima::ring

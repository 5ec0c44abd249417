// For tests: a whole ring in one process, under simulated time, on fake executors.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "ring/fake_executor.h"
#include "ring/remote_ring.h"
#include "ring/worker.h"
#include "transport/simulated_network.h"

namespace prima::ring {

struct SimulatedRingOptions {
  std::uint32_t n_layer = 12;
  RingOptions ring;  // n_workers workers are made
  // The time that a device takes for a hop.
  std::function<Duration(std::uint32_t device, compute::LayerRange, std::uint32_t n_tokens)> cost;
  // Devices that read their windows from disk, and how long that takes.
  std::set<std::uint32_t> streaming;
  Duration read_time = std::chrono::milliseconds(50);
};

inline ModelSummary fake_model(std::uint32_t n_layer) {
  return {.identity = ModelIdentity(kModelIdentityBytes, 7),
          .name = "fake",
          .n_layer = n_layer,
          .n_embd = kFakeEmbedding};
}

inline RingOptions fake_ring_options(std::uint32_t n_workers) {
  RingOptions options;
  options.n_workers = n_workers;
  options.device_name = "head";
  options.executor.n_ctx = 256;
  options.executor.max_tokens = 32;
  return options;
}

// The workers, "worker1" and so on, as simulated devices that run as long as the object lives.
// REQUIRES: used inside SimulatedWorld::run().
class SimulatedWorkers {
 public:
  static constexpr std::uint16_t kHeadPort = 500;

  SimulatedWorkers(transport::SimulatedWorld& world, SimulatedRingOptions options)
      : world_(world), options_(std::move(options)) {
    options_.ring.port = kHeadPort;
    for (std::uint32_t i = 1; i <= options_.ring.n_workers; ++i) start(i);
  }
  ~SimulatedWorkers() {
    for (Running& running : workers_) {
      world_.resume(running.name);
      running.worker->stop();
    }
    for (Running& running : workers_) running.thread.reset();
  }

  void start(std::uint32_t i) {
    Running running{.name = "worker" + std::to_string(i), .worker = nullptr, .thread = nullptr};
    transport::Network& network = world_.host(running.name);
    running.worker =
        Worker::create(
            network,
            {.device_name = running.name,
             .find_heads = [this] { return heads; },
             .make_executor = [this](const Assignment& assignment, const compute::LoadProgress&)
                 -> Result<std::unique_ptr<compute::Executor>> {
               if (on_load) PRIMA_RETURN_IF_ERROR(on_load(assignment));
               compute::ExecutorOptions options;
               options.windows = windows_of(assignment.route, assignment.device);
               options.is_head = false;
               options.n_ctx = assignment.n_ctx;
               return make_executor(assignment.device, options);
             },
             .profile = [this, name = running.name](const ProfileRequest&,
                                                    const std::function<bool()>&)
                 -> Result<std::string> { return on_profile ? on_profile(name) : name + "'s"; },
             .on_status =
                 [this, i](const WorkerStatus& status) {
                   statuses[i] = status;
                   if (on_state) on_state(i, status.state);
                 }})
            .value();
    running.thread =
        network.start_thread("worker", [worker = running.worker.get()] { worker->run(); });
    workers_.push_back(std::move(running));
  }

  std::unique_ptr<compute::Executor> make_executor(std::uint32_t device,
                                                   const compute::ExecutorOptions& options) {
    auto executor = std::make_unique<FakeExecutor>(
        options, options_.n_layer, [this, device](compute::LayerRange layers, std::uint32_t n) {
          if (options_.cost) world_.sleep(options_.cost(device, layers, n));
        });
    if (options_.streaming.contains(device)) {
      executor->read_time = options_.read_time;
      executor->on_read = [this, device](compute::LayerRange layers) {
        reads.emplace_back(device, layers);
        world_.sleep(options_.read_time);
      };
    }
    return executor;
  }

  Result<std::unique_ptr<RemoteRing>> form() { return form(options_.ring); }
  Result<std::unique_ptr<RemoteRing>> form(RingOptions options,
                                           std::optional<RingPlanning> planning = {}) {
    options.port = kHeadPort;
    return RemoteRing::form(
        world_.host("head"), fake_model(options_.n_layer), options,
        [this](const compute::ExecutorOptions& executor,
               const compute::LoadProgress&) -> Result<std::unique_ptr<compute::Executor>> {
          return make_executor(kHead, executor);
        },
        [](std::uint16_t) -> Result<std::shared_ptr<void>> { return std::shared_ptr<void>(); }, {},
        std::move(planning));
  }

  std::vector<transport::Endpoint> heads{{"head", kHeadPort}};  // that workers are told of
  std::function<Status(const Assignment&)> on_load;
  std::function<void(std::uint32_t worker, WorkerStatus::State)> on_state;
  std::function<Result<std::string>(const std::string& name)> on_profile;
  std::map<std::uint32_t, WorkerStatus> statuses;
  std::vector<std::pair<std::uint32_t, compute::LayerRange>> reads;  // by device

 private:
  struct Running {
    std::string name;
    std::unique_ptr<Worker> worker;
    std::unique_ptr<transport::Thread> thread;
  };

  transport::SimulatedWorld& world_;
  SimulatedRingOptions options_;
  std::vector<Running> workers_;
};

}  // namespace prima::ring

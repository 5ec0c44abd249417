// What a hop costs: a hidden state from one device's graph to the next's, on loopback, encrypted.
//
// A ring of a head and one worker whose layers take no time; a step goes to the worker and back,
// two hops. Reported: half of the time from submit to result, for each number of tokens in a step.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "ring/remote_ring.h"
#include "ring/worker.h"
#include "transport/cluster_key.h"
#include "transport/zmq_network.h"

namespace prima {
namespace {

class NullExecutor final : public compute::Executor {
 public:
  explicit NullExecutor(std::uint32_t n_embd) : n_embd_(n_embd) {}

  Status embed(std::span<const std::int32_t> tokens, std::vector<float>& hidden) override {
    hidden.assign(tokens.size() * n_embd_, 1.0f);
    return {};
  }
  Status begin(const compute::Step&) override { return {}; }
  Status run(compute::LayerRange, const compute::Step&, std::vector<float>& hidden) override {
    for (float& value : hidden) value += 1.0f;  // reads and writes it all, as a graph does
    return {};
  }
  Status logits(std::span<const float> hidden, std::vector<float>& logits) override {
    logits.assign(hidden.begin(), hidden.begin() + 1);
    return {};
  }
  Status embeddings(std::span<const float> hidden, std::vector<float>& embeddings) override {
    return logits(hidden, embeddings);
  }
  void clear() override {}
  void rest() override {}
  compute::ExecutorMemory memory() const override { return {}; }

 private:
  const std::uint32_t n_embd_;
};

struct Bench {
  std::uint32_t n_embd = 8192;
  std::uint32_t n_steps = 2000;
  std::string link_type = "f32";
};

ggml_type to_type(const std::string& name) {
  return name == "f16" ? GGML_TYPE_F16 : name == "q8_0" ? GGML_TYPE_Q8_0 : GGML_TYPE_F32;
}

Result<std::vector<double>> hops(ring::Ring& ring, std::uint32_t n_tokens, std::uint32_t n_steps,
                                 const Clock& clock) {
  compute::Step step;
  step.sequences.assign(n_tokens, 0);
  for (std::uint32_t i = 0; i < n_tokens; ++i) {
    step.positions.push_back(static_cast<std::int32_t>(i));
    step.cells.push_back(i);
    step.outputs.push_back(i);
  }
  step.n_kv = 1024;
  const std::vector<std::int32_t> tokens(n_tokens, 0);
  std::vector<double> times;
  for (std::uint32_t i = 0; i < n_steps; ++i) {
    ++step.id;
    const Instant started = clock.now();
    const Instant deadline = started + std::chrono::seconds(10);
    PRIMA_RETURN_IF_ERROR(ring.submit(step, tokens, deadline));
    PRIMA_ASSIGN_OR_RETURN(const auto finished, ring.next(deadline));
    times.push_back(seconds(clock.now() - started) / 2);
  }
  std::ranges::sort(times);
  return times;
}

Status run(const Bench& bench) {
  transport::ClusterKey key;
  key.stretched.fill(1);
  const auto keys = transport::derive_keys(key);
  const auto head_network = transport::make_zmq_network(keys);
  const auto worker_network = transport::make_zmq_network(keys);
  const SystemClock clock;

  std::atomic<std::uint16_t> port{0};
  PRIMA_ASSIGN_OR_RETURN(
      const auto worker,
      ring::Worker::create(
          *worker_network,
          {.device_name = "worker",
           .find_heads =
               [&] {
                 return port == 0 ? std::vector<transport::Endpoint>{}
                                  : std::vector<transport::Endpoint>{{"127.0.0.1", port}};
               },
           .make_executor = [&](const ring::Assignment&, const compute::LoadProgress&)
               -> Result<std::unique_ptr<compute::Executor>> {
             return std::make_unique<NullExecutor>(bench.n_embd);
           },
           .on_status = {}}));
  const auto thread = worker_network->start_thread("worker", [&] { worker->run(); });
  const auto measure = [&]() -> Status {
    ring::RingOptions options;
    options.n_workers = 1;
    options.windows = {1, 1};
    options.device_name = "head";
    options.link_type = to_type(bench.link_type);
    options.executor.n_ctx = 1024;
    options.executor.max_tokens = 512;
    const ring::ModelSummary model{.identity = ring::ModelIdentity(ring::kModelIdentityBytes),
                                   .name = "none",
                                   .n_layer = 2,
                                   .n_embd = bench.n_embd};
    PRIMA_ASSIGN_OR_RETURN(
        const auto ring,
        ring::RemoteRing::form(
            *head_network, model, options,
            [&](const compute::ExecutorOptions&,
                const compute::LoadProgress&) -> Result<std::unique_ptr<compute::Executor>> {
              return std::make_unique<NullExecutor>(bench.n_embd);
            },
            [&](std::uint16_t bound) -> Result<std::shared_ptr<void>> {
              port = bound;
              return std::shared_ptr<void>();
            }));
    for (const std::uint32_t n_tokens : {1u, 16u, 128u, 512u}) {
      const std::uint32_t n_steps = std::max(20u, bench.n_steps / n_tokens);
      PRIMA_ASSIGN_OR_RETURN(const auto times, hops(*ring, n_tokens, n_steps, clock));
      std::printf("%4u tokens x %u %s: hop median %8.1f us, p95 %8.1f us, fastest %8.1f us\n",
                  n_tokens, bench.n_embd, bench.link_type.c_str(), 1e6 * times[times.size() / 2],
                  1e6 * times[times.size() * 95 / 100], 1e6 * times.front());
    }
    return {};
  };
  const Status measured = measure();
  worker->stop();
  return measured;
}

}  // namespace
}  // namespace prima

int main(int argc, char** argv) {
  CLI::App app{"What a hop between two devices costs, on loopback, encrypted"};
  prima::Bench bench;
  app.add_option("--embd", bench.n_embd, "Width of the hidden state");
  app.add_option("--steps", bench.n_steps, "Steps of one token");
  app.add_option("--link", bench.link_type, "f32, f16 or q8_0")
      ->check(CLI::IsMember({"f32", "f16", "q8_0"}));
  CLI11_PARSE(app, argc, argv);
  if (const auto done = prima::run(bench); !done) {
    std::fprintf(stderr, "hop_bench: %s\n", done.error().message().c_str());
    return 1;
  }
  return 0;
}

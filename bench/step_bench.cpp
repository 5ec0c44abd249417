// What a step of n tokens costs one device, for n from 1 to 512: how much slower a prompt is
// computed in smaller micro-batches. The last line fits cost + n * per_token to the steps of 16
// tokens and more; their ratio is what src/ring/micro_batch.h calls kStepCostTokens.
//
//     step_bench -m model.gguf [--layers 4] [--threads 2] [--seconds 1]
#include <algorithm>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/clock.h"
#include "compute/executor.h"
#include "model/model_file.h"

namespace prima {
namespace {

constexpr std::uint32_t kMostTokens = 512;
constexpr std::uint32_t kFewestFitted = 16;

struct Bench {
  std::string model;
  std::uint32_t n_layers = 4;
  int n_threads = 0;
  double seconds_per_size = 1;
};

struct Point {
  std::uint32_t n_tokens = 0;
  double seconds = 0;
};

// A prompt's first tokens, in a cache of which all kMostTokens cells are read.
compute::Step step_of(std::uint32_t n_tokens) {
  compute::Step step;
  step.sequences.assign(n_tokens, 0);
  step.positions.resize(n_tokens);
  step.cells.resize(n_tokens);
  std::iota(step.positions.begin(), step.positions.end(), 0);
  std::iota(step.cells.begin(), step.cells.end(), 0u);
  step.outputs = {n_tokens - 1};
  step.n_kv = kMostTokens;
  return step;
}

Result<Point> measure(const Bench& bench, compute::Executor& executor, std::uint32_t n_embd,
                      std::uint32_t n_tokens) {
  const SystemClock clock;
  const compute::Step step = step_of(n_tokens);
  std::vector<double> times;
  const Instant end = clock.now() + std::chrono::microseconds(
                                        static_cast<std::int64_t>(1e6 * bench.seconds_per_size));
  while (times.size() < 4 || clock.now() < end) {
    executor.clear();
    PRIMA_RETURN_IF_ERROR(executor.begin(step));
    std::vector<float> hidden(std::size_t{n_tokens} * n_embd, 0.01f);
    const Instant started = clock.now();
    PRIMA_RETURN_IF_ERROR(executor.run({0, bench.n_layers}, step, hidden));
    times.push_back(seconds(clock.now() - started));
  }
  times.erase(times.begin());  // built its graph
  std::ranges::sort(times);
  return Point{n_tokens, times[times.size() / 2]};
}

// Least squares of relative errors.
std::pair<double, double> fit(const std::vector<Point>& points) {
  double s = 0, sn = 0, snn = 0, st = 0, snt = 0;
  for (const Point& point : points) {
    if (point.n_tokens < kFewestFitted) continue;
    const double n = point.n_tokens;
    const double weight = 1 / (point.seconds * point.seconds);
    s += weight;
    sn += weight * n;
    snn += weight * n * n;
    st += weight * point.seconds;
    snt += weight * n * point.seconds;
  }
  const double per_token = (s * snt - sn * st) / (s * snn - sn * sn);
  return {(st - per_token * sn) / s, per_token};
}

Status run(Bench bench) {
  PRIMA_ASSIGN_OR_RETURN(const auto model, model::ModelFile::open(bench.model));
  const model::Hyperparameters& hp = model.hyperparameters();
  bench.n_layers = std::min(bench.n_layers, hp.n_layer - 1);  // the last drops tokens
  compute::ExecutorOptions options;
  options.windows = {{0, bench.n_layers}};
  options.is_head = false;
  options.n_ctx = kMostTokens;
  options.max_tokens = kMostTokens;
  options.n_threads = bench.n_threads;
  PRIMA_ASSIGN_OR_RETURN(const auto executor, compute::Executor::create(model, options));
  std::vector<Point> points;
  for (const std::uint32_t n_tokens : {1u, 4u, 8u, 16u, 24u, 32u, 48u, 64u, 128u, 256u, 512u}) {
    PRIMA_ASSIGN_OR_RETURN(const Point point, measure(bench, *executor, hp.n_embd, n_tokens));
    std::printf("%4u tokens: %9.2f ms, %8.3f ms a token\n", n_tokens, 1e3 * point.seconds,
                1e3 * point.seconds / n_tokens);
    std::fflush(stdout);
    points.push_back(point);
  }
  const auto [cost, per_token] = fit(points);
  std::printf("a step costs %.2f ms and %.3f ms a token: as much as %.1f tokens\n", 1e3 * cost,
              1e3 * per_token, cost / per_token);
  return {};
}

}  // namespace
}  // namespace prima

int main(int argc, char** argv) {
  CLI::App app{"What a step of n tokens costs one device"};
  prima::Bench bench;
  app.add_option("-m,--model", bench.model, "Model file")->required();
  app.add_option("--layers", bench.n_layers, "How many layers are computed");
  app.add_option("--threads", bench.n_threads, "0: one per physical core");
  app.add_option("--seconds", bench.seconds_per_size, "For each size");
  CLI11_PARSE(app, argc, argv);
  if (const auto done = prima::run(bench); !done) {
    std::fprintf(stderr, "step_bench: %s\n", done.error().message().c_str());
    return 1;
  }
  return 0;
}

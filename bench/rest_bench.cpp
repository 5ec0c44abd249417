// What resting costs, and what not resting costs: a window of layers is computed, the device waits
// for its turn, and so on. Prints the time of a window with and without rest() before the wait, and
// the processor time that the wait itself took, in per cent of one core.
//
//     rest_bench -m model.gguf [--layers 4] [--wait-ms 100] [--rounds 30] [--threads 2]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>

#include "compute/executor.h"
#include "compute/kv_cells.h"
#include "compute/threads.h"
#include "model/model_file.h"

namespace {

using Milliseconds = std::chrono::duration<double, std::milli>;

struct Options {
  std::string model;
  std::uint32_t layers = 4;
  int wait_ms = 100;
  int rounds = 30;
  int threads = 0;
};

struct Measured {
  std::vector<double> window_ms;
  double wait_processor_ms = 0;
};

double processor_ms() { return 1e3 * static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

[[noreturn]] void die(const prima::Error& error) {
  std::fprintf(stderr, "rest_bench: %s\n", error.message().c_str());
  std::exit(1);
}

template <typename T>
T check(prima::Result<T> result) {
  if (!result) die(result.error());
  return std::move(*result);
}

void check(const prima::Status& status) {
  if (!status) die(status.error());
}

void run_window(prima::compute::Executor& executor, prima::compute::LayerRange layers,
                std::uint32_t n_embd) {
  executor.clear();
  prima::compute::Step step;
  step.sequences = {0};
  step.positions = {0};
  step.cells = {0};
  step.n_kv = prima::compute::kKvCellsGranularity;
  step.outputs = {0};
  std::vector<float> hidden(n_embd, 0.5f);
  check(executor.begin(step));
  check(executor.run(layers, step, hidden));
}

void measure(prima::compute::Executor& executor, prima::compute::LayerRange layers,
             std::uint32_t n_embd, const Options& options, bool rest, Measured& measured) {
  const auto start = std::chrono::steady_clock::now();
  run_window(executor, layers, n_embd);
  if (rest) executor.rest();
  measured.window_ms.push_back(Milliseconds(std::chrono::steady_clock::now() - start).count());
  const double before = processor_ms();
  std::this_thread::sleep_for(std::chrono::milliseconds(options.wait_ms));
  measured.wait_processor_ms += processor_ms() - before;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("What a device's rest between windows costs and saves");
  Options options;
  app.add_option("-m,--model", options.model, "GGUF file")->required();
  app.add_option("--layers", options.layers, "Layers of the window");
  app.add_option("--wait-ms", options.wait_ms, "Milliseconds between windows");
  app.add_option("--rounds", options.rounds, "Windows of each kind")->check(CLI::Range(1, 10000));
  app.add_option("--threads", options.threads, "Threads (default: one per core)");
  CLI11_PARSE(app, argc, argv);

  const auto model = check(prima::model::ModelFile::open(options.model));
  const auto& hp = model.hyperparameters();
  const prima::compute::LayerRange layers{0, std::min(options.layers, hp.n_layer)};
  const auto executor = check(prima::compute::Executor::create(
      model, {.windows = {layers}, .is_head = false, .n_ctx = 256, .n_threads = options.threads}));
  run_window(*executor, layers, hp.n_embd);

  Measured spinning;
  Measured resting;
  for (int i = 0; i < options.rounds; ++i) {
    measure(*executor, layers, hp.n_embd, options, false, spinning);
    measure(*executor, layers, hp.n_embd, options, true, resting);
  }
  const double waited_ms = static_cast<double>(options.wait_ms) * options.rounds;
  const auto print = [&](const char* name, const Measured& measured) {
    std::printf("%-14s window %8.3f ms (median)   waiting uses %6.2f %% of a core\n", name,
                median(measured.window_ms), 100 * measured.wait_processor_ms / waited_ms);
  };
  std::printf("%u layers of %s, waits of %d ms, %d rounds\n", layers.size(), model.name().c_str(),
              options.wait_ms, options.rounds);
  print("without rest", spinning);
  print("with rest", resting);
  return 0;
}

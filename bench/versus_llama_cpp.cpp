// Prima's forward pass against llama.cpp's own library: the same file, threads and kernels, in one
// process, alternating (ABBA), so that a machine whose speed drifts is fair to both. What is timed
// is what llama-bench times: decoding one token at a time, and a prompt in one batch.
//
//     versus_llama_cpp -m model.gguf [--pairs 15] [--prompt 512] [--decode 16] [--threads 2]
//                      [--memory 8G [--store FOLDER]] [--no-repack]
//
// `--memory`: Prima keeps its weights within a budget, as clean pages of the model's file, or of a
// layer store that is written first. `--no-repack`: both compute with the weights as they lie in
// the file, so that kernels are equal there too.
//
// Prints each test's median tokens/s and the median of the paired ratios (Prima over llama.cpp)
// with a 95 % bootstrap confidence interval. Pairs during which the hypervisor took processor time
// away
// ("steal") are thrown out and counted.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "parity/llama_reference.h"
#include "written_store.h"
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "base/units.h"
#include "compute/executor.h"
#include "compute/forward_session.h"
#include "compute/threads.h"
#include "model/model_file.h"
#include "weights/budget.h"

namespace {

using prima::compute::Executor;
using prima::compute::ForwardSession;
using prima::parity::LlamaReference;

// A pair that lost more of its time than this to other guests says nothing about the programs.
constexpr double kMaxStealShare = 0.01;

struct Options {
  std::string model;
  int pairs = 15;
  int prompt = 512;
  int decode = 16;
  int threads = 0;
  std::string memory;
  std::string store;
  bool no_repack = false;
  std::string json;
};

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Seconds that the hypervisor ran something else while a processor here wanted to run.
double steal_seconds() {
  std::ifstream stat("/proc/stat");
  std::string line;
  std::getline(stat, line);
  std::istringstream fields(line);
  std::string name;
  double value = 0;
  fields >> name;
  for (int i = 0; i < 8 && fields >> value; ++i) {
  }
  return value / 100.0;  // USER_HZ
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  if (n == 0) return 0;
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

struct Interval {
  double low;
  double high;
};

Interval bootstrap_median(const std::vector<double>& values) {
  constexpr int kResamples = 10'000;
  std::mt19937 random(1);
  std::uniform_int_distribution<std::size_t> pick(0, values.size() - 1);
  std::vector<double> medians;
  for (int i = 0; i < kResamples; ++i) {
    std::vector<double> sample(values.size());
    for (double& value : sample) value = values[pick(random)];
    medians.push_back(median(std::move(sample)));
  }
  std::sort(medians.begin(), medians.end());
  return {medians[kResamples / 40], medians[kResamples - kResamples / 40 - 1]};
}

struct Comparison {
  std::vector<double> prima_tokens_per_second;
  std::vector<double> llama_tokens_per_second;
  std::vector<double> ratios;
  int disturbed = 0;
};

// `prima` and `llama` each process `n_tokens`. ABBA: who goes first alternates.
Comparison compare(int pairs, int n_tokens, const std::function<void()>& prima,
                   const std::function<void()>& llama) {
  const auto timed = [&](const std::function<void()>& run) {
    const double start = now_seconds();
    run();
    return n_tokens / (now_seconds() - start);
  };
  Comparison result;
  prima();
  llama();
  const int most = 3 * pairs;
  for (int i = 0; i < most && static_cast<int>(result.ratios.size()) < pairs; ++i) {
    const double steal_before = steal_seconds();
    const double start = now_seconds();
    double a = 0;
    double b = 0;
    if (i % 2 == 0) {
      a = timed(prima);
      b = timed(llama);
    } else {
      b = timed(llama);
      a = timed(prima);
    }
    if (steal_seconds() - steal_before > kMaxStealShare * (now_seconds() - start)) {
      ++result.disturbed;
      continue;
    }
    result.prima_tokens_per_second.push_back(a);
    result.llama_tokens_per_second.push_back(b);
    result.ratios.push_back(a / b);
  }
  return result;
}

nlohmann::json report(const char* test, const Comparison& comparison) {
  if (comparison.ratios.empty()) {
    std::printf("%-10s all %d pairs were disturbed\n", test, comparison.disturbed);
    return {{"test", test}, {"pairs", 0}, {"disturbed", comparison.disturbed}};
  }
  const Interval interval = bootstrap_median(comparison.ratios);
  const double prima = median(comparison.prima_tokens_per_second);
  const double llama = median(comparison.llama_tokens_per_second);
  const double ratio = median(comparison.ratios);
  std::printf(
      "%-10s prima %8.2f t/s   llama.cpp %8.2f t/s   ratio %.3f [%.3f, %.3f]   "
      "%zu pairs, %d disturbed\n",
      test, prima, llama, ratio, interval.low, interval.high, comparison.ratios.size(),
      comparison.disturbed);
  return {{"test", test},
          {"prima_tokens_per_second", prima},
          {"llama_tokens_per_second", llama},
          {"ratio", ratio},
          {"ratio_low", interval.low},
          {"ratio_high", interval.high},
          {"pairs", comparison.ratios.size()},
          {"disturbed", comparison.disturbed}};
}

[[noreturn]] void die(const std::string& message) {
  std::fprintf(stderr, "versus_llama_cpp: %s\n", message.c_str());
  std::exit(1);
}

// All of the weights must fit: what is read from disk for every token is stream_bench's affair.
void add_budget(const Options& options, const prima::model::ModelFile& model,
                prima::compute::ExecutorOptions& executor_options) {
  const auto asked = prima::parse_bytes(options.memory);
  if (!asked) die(asked.error().message());
  const auto budget = prima::weights::measure_budget(*asked);
  if (!budget) die(budget.error().message());
  executor_options.memory = *budget;
  if (options.store.empty()) return;
  auto store = prima::bench::written_store(model, options.store);
  if (!store) die(store.error().message());
  executor_options.store = *std::move(store);
}

int run(const Options& options) {
  const int threads =
      options.threads > 0 ? options.threads : prima::compute::default_thread_count();
  auto model = prima::model::ModelFile::open(options.model);
  if (!model) die(model.error().message());
  const std::uint32_t n_layer = model->hyperparameters().n_layer;
  const auto n_ctx = static_cast<std::uint32_t>(prima::align_up(
      static_cast<prima::Bytes>(options.prompt) + static_cast<prima::Bytes>(options.decode) + 1,
      256));

  prima::compute::ExecutorOptions executor_options{.windows = {{0, n_layer}},
                                                   .n_ctx = n_ctx,
                                                   .max_tokens = 512,
                                                   .n_threads = threads,
                                                   .repack = !options.no_repack};
  if (!options.memory.empty()) add_budget(options, *model, executor_options);
  auto executor = Executor::create(*model, executor_options);
  if (!executor) die(executor.error().message());
  if ((*executor)->memory().streamed > 0) die("the model does not fit in " + options.memory);
  ForwardSession session(**executor, n_layer, n_ctx, 512);
  LlamaReference reference(options.model, n_ctx, threads, GGML_TYPE_F16, LLAMA_POOLING_TYPE_NONE,
                           !options.no_repack);
  if (!reference.valid()) die("llama.cpp cannot load " + options.model);

  std::mt19937 random(3);
  std::uniform_int_distribution<std::int32_t> token(
      3, static_cast<std::int32_t>(model->hyperparameters().n_vocab) - 1);
  std::vector<std::int32_t> prompt(static_cast<std::size_t>(options.prompt));
  for (auto& each : prompt) each = token(random);
  const std::vector<std::int32_t> answer(prompt.begin(), prompt.begin() + options.decode);

  const auto prima_feeds = [&](std::span<const std::int32_t> tokens) {
    if (const auto logits = session.decode(tokens); !logits) die(logits.error().message());
  };
  std::printf("%s, %d threads\n", model->name().c_str(), threads);
  nlohmann::json results = nlohmann::json::array();
  results.push_back(report("prefill", compare(
                                          options.pairs, options.prompt,
                                          [&] {
                                            session.clear();
                                            prima_feeds(prompt);
                                          },
                                          [&] {
                                            reference.clear();
                                            reference.decode(prompt);
                                          })));
  session.clear();
  reference.clear();
  results.push_back(report("decode", compare(
                                         options.pairs, options.decode,
                                         [&] {
                                           session.clear();
                                           for (const std::int32_t& each : answer)
                                             prima_feeds(std::span(&each, 1));
                                         },
                                         [&] {
                                           reference.clear();
                                           for (const std::int32_t& each : answer)
                                             reference.decode(std::span(&each, 1));
                                         })));
  if (!options.json.empty()) {
    std::ofstream(options.json) << nlohmann::json{{"model", model->name()},
                                                  {"threads", threads},
                                                  {"prompt", options.prompt},
                                                  {"results", results}}
                                       .dump(2)
                                << '\n';
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Prima's forward pass against llama.cpp's library on the same file");
  Options options;
  app.add_option("-m,--model", options.model, "GGUF file")->required();
  app.add_option("--pairs", options.pairs, "Undisturbed pairs to measure")
      ->check(CLI::Range(1, 1000));
  app.add_option("--prompt", options.prompt, "Tokens of the prompt")->check(CLI::Range(1, 512));
  app.add_option("--decode", options.decode, "Tokens decoded one by one")
      ->check(CLI::Range(1, 512));
  app.add_option("--threads", options.threads, "Threads (default: one per core)");
  CLI::Option* memory = app.add_option("--memory", options.memory, "Prima's weights within it");
  app.add_option("--store", options.store, "Prima's weights from a layer store in this folder")
      ->needs(memory);
  app.add_flag("--no-repack", options.no_repack, "Both: weights as they lie in the file");
  app.add_option("--json", options.json, "Write the results here too");
  CLI11_PARSE(app, argc, argv);
  if (options.decode > options.prompt) die("--decode may be at most --prompt");
  return run(options);
}

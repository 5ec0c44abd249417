// Weights within a memory budget: how long a token takes, how much of that waits for the disk, and
// how much memory was really used, for one device and one model.
//
//     stream_bench -m model.gguf --memory 1G [--decode 8] [--prompt 0] [--context 2048] [--slots
//     64M]
//                  [--reader auto|uring|threads|buffered] [--place auto|slots|in-place]
//                  [--threads 2] [--no-repack] [--store FOLDER] [--json FILE]
//
// `--memory` is for the whole program, as in `prima run`; without it weights are held in memory.
// `--store`: from a layer store in that folder, written before where it is not there.
// For cold figures drop the page cache first; to emulate a small device run it in a cgroup with a
// limited memory and a throttled disk (bench/README.md).
#include <chrono>
#include <cstdio>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "written_store.h"
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "base/units.h"
#include "compute/executor.h"
#include "compute/forward_session.h"
#include "model/model_file.h"
#include "weights/budget.h"

namespace {

using prima::Bytes;
using prima::Result;
using prima::Status;

struct Options {
  std::string model;
  std::string memory;
  std::string slots;
  std::string reader = "auto";
  std::string place = "auto";
  int decode = 8;
  int prompt = 0;
  std::uint32_t context = 2048;
  int threads = 0;
  int queue_depth = 8;
  bool no_repack = false;
  std::string store;
  std::string json;
};

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A line of /proc/self/status in bytes, or of /proc/self/io.
Bytes process_figure(const char* file, const std::string& name, Bytes unit) {
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(name + ":")) return std::stoull(line.substr(name.size() + 1)) * unit;
  }
  return 0;
}

Result<prima::compute::ExecutorOptions> executor_options(
    const Options& options, const prima::model::Hyperparameters& hyperparameters) {
  prima::compute::ExecutorOptions executor;
  executor.windows = {{0, hyperparameters.n_layer}};
  executor.n_ctx = options.context;
  executor.n_threads = options.threads;
  executor.repack = !options.no_repack;
  if (!options.memory.empty()) {
    PRIMA_ASSIGN_OR_RETURN(const Bytes asked, prima::parse_bytes(options.memory));
    PRIMA_ASSIGN_OR_RETURN(executor.memory, prima::weights::measure_budget(asked));
    executor.max_tokens =
        prima::compute::step_tokens_within(*executor.memory, hyperparameters, executor.max_tokens);
  }
  if (!options.slots.empty()) {
    PRIMA_ASSIGN_OR_RETURN(executor.streaming.slot_bytes, prima::parse_bytes(options.slots));
  }
  auto& place = executor.streaming.place;
  if (options.place == "slots") place = prima::weights::StreamingPlace::slots;
  if (options.place == "in-place") place = prima::weights::StreamingPlace::in_place;
  auto& reader = executor.streaming.reader;
  reader.queue_depth = static_cast<std::size_t>(options.queue_depth);
  reader.direct = options.reader != "buffered";
  if (options.reader == "uring") reader.kind = prima::weights::ReaderKind::io_uring;
  if (options.reader == "threads") reader.kind = prima::weights::ReaderKind::threads;
  return executor;
}

Status run(const Options& options) {
  PRIMA_ASSIGN_OR_RETURN(const auto model, prima::model::ModelFile::open(options.model));
  const std::uint32_t n_layer = model.hyperparameters().n_layer;
  PRIMA_ASSIGN_OR_RETURN(auto executor_options_,
                         executor_options(options, model.hyperparameters()));
  if (!options.store.empty()) {
    PRIMA_ASSIGN_OR_RETURN(executor_options_.store,
                           prima::bench::written_store(model, options.store));
  }

  nlohmann::ordered_json report;
  double start = now_seconds();
  PRIMA_ASSIGN_OR_RETURN(auto executor, prima::compute::Executor::create(model, executor_options_));
  report["load_seconds"] = now_seconds() - start;
  prima::compute::ForwardSession session(*executor, n_layer, executor_options_.n_ctx,
                                         executor_options_.max_tokens);
  const std::int32_t n_vocab = static_cast<std::int32_t>(model.hyperparameters().n_vocab);
  std::vector<std::int32_t> prompt;
  for (int i = 0; i < options.prompt; ++i) prompt.push_back((i * 7919 + 13) % n_vocab);
  if (!prompt.empty()) {
    start = now_seconds();
    PRIMA_ASSIGN_OR_RETURN(const auto logits, session.decode(prompt));
    report["prefill_seconds"] = now_seconds() - start;
  }
  constexpr int kWarmUp = 2;  // the first token finds nothing read ahead
  std::vector<double> times;
  Bytes read_before = 0;
  for (int i = 0; i < options.decode + kWarmUp; ++i) {
    if (i == kWarmUp) read_before = process_figure("/proc/self/io", "read_bytes", 1);
    const std::int32_t token = (i * 104729 + 11) % n_vocab;
    start = now_seconds();
    PRIMA_ASSIGN_OR_RETURN(const auto logits, session.decode(std::span(&token, 1)));
    times.push_back(now_seconds() - start);
  }
  const Bytes read = process_figure("/proc/self/io", "read_bytes", 1) - read_before;
  double total = 0;
  for (int i = kWarmUp; i < options.decode + kWarmUp; ++i) total += times[i];

  const prima::compute::ExecutorMemory memory = executor->memory();
  report["tpot_seconds"] = total / options.decode;
  report["token_seconds"] = times;
  report["disk_bytes_per_second"] = static_cast<double>(read) / total;
  report["disk_bytes_per_token"] = read / static_cast<Bytes>(options.decode);
  report["weight_bytes"] = model.weight_bytes();
  report["memory"] = {{"weights", memory.weights},
                      {"slots", memory.slots},
                      {"streamed_per_token", memory.streamed},
                      {"kv_cache", memory.kv_cache},
                      {"compute_buffers", memory.compute_buffers},
                      {"program", memory.program},
                      {"peak_rss", process_figure("/proc/self/status", "VmHWM", 1024)},
                      {"rss_anon", process_figure("/proc/self/status", "RssAnon", 1024)},
                      {"rss_file", process_figure("/proc/self/status", "RssFile", 1024)},
                      {"rss_shmem", process_figure("/proc/self/status", "RssShmem", 1024)}};
  std::printf("%s\n", report.dump(2).c_str());
  if (!options.json.empty()) std::ofstream(options.json) << report.dump(2) << '\n';
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Time per token within a memory budget"};
  app.add_option("-m,--model", options.model, "GGUF file")->required();
  CLI::Option* memory = app.add_option("--memory", options.memory, "memory for the whole program");
  app.add_option("--slots", options.slots, "slot memory");
  app.add_option("--reader", options.reader, "how to read")
      ->check(CLI::IsMember({"auto", "uring", "threads", "buffered"}));
  app.add_option("--place", options.place, "where streamed weights are while they are used")
      ->check(CLI::IsMember({"auto", "slots", "in-place"}));
  app.add_option("--decode", options.decode, "tokens to time")->check(CLI::PositiveNumber);
  app.add_option("--prompt", options.prompt, "tokens of a prompt before");
  app.add_option("--context", options.context, "KV cells");
  app.add_option("--threads", options.threads, "threads");
  app.add_option("--queue-depth", options.queue_depth, "reads in flight");
  app.add_flag("--no-repack", options.no_repack, "weights as they lie in the file");
  app.add_option("--store", options.store, "weights from a layer store")->needs(memory);
  app.add_option("--json", options.json, "report file");
  CLI11_PARSE(app, argc, argv);
  const auto status = run(options);
  if (!status) std::fprintf(stderr, "stream_bench: %s\n", status.error().message().c_str());
  return status ? 0 : 1;
}

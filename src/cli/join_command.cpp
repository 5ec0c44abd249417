#include "cli/join_command.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <unistd.h>

#include "base/clock.h"
#include "cli/device_profile.h"
#include "cli/exit_code.h"
#include "cli/processor_options.h"
#include "cli/progress_line.h"
#include "profile/device_profile_json.h"
#include "ring/model_library.h"
#include "ring/worker.h"
#include "transport/cluster_key.h"
#include "transport/lan_rendezvous.h"
#include "transport/local_rendezvous.h"
#include "transport/zmq_network.h"

namespace prima::cli {

namespace {

constexpr Duration kRedrawInterval = std::chrono::milliseconds(250);

constexpr const char* kJoinFooter =
    "Waits for a head (prima run --workers N on another device, or in another terminal), computes\n"
    "the layers that it gives this device, and waits for the next one; Ctrl-C ends it. It needs "
    "the\n"
    "same model file as the head and the same cluster key (prima key). It sees hidden states, "
    "never\n"
    "the text.\n"
    "\n"
    "Examples:\n"
    "  prima join -m model.gguf\n"
    "  prima join -m ~/models                  a folder: the head's model is found by its content\n"
    "  prima join -m model.gguf --head 192.168.1.7:5000\n";

struct JoinOptions {
  std::vector<std::filesystem::path> models;
  std::string head;
  std::string name;
  std::filesystem::path key_file;
  ProcessorOptions processor;
};

std::string layers_text(const std::vector<compute::LayerRange>& windows) {
  std::uint32_t n_layers = 0;
  for (const compute::LayerRange& window : windows) n_layers += window.size();
  return std::to_string(n_layers) + (n_layers == 1 ? " layer" : " layers");
}

// One live line on a terminal; elsewhere a line at each change of state.
class JoinLine {
 public:
  void show(const ring::WorkerStatus& status) {
    using State = ring::WorkerStatus::State;
    const Instant now = clock_.now();
    const bool changed = status.state != state_;
    if (!changed && now - shown_at_ < kRedrawInterval) return;
    if (now - counted_at_ >= std::chrono::seconds(1) || status.tokens < tokens_) {
      const auto tokens = status.tokens - std::min(tokens_, status.tokens);
      rate_ = static_cast<double>(tokens) / seconds(now - counted_at_);
      counted_at_ = now;
      tokens_ = status.tokens;
    }
    state_ = status.state;
    shown_at_ = now;

    std::string text = ring::to_string(status.state);
    if (status.state == State::loading && status.to_load > 0) {
      text += " " + layers_text(status.windows) + ": " + format_bytes(status.loaded) + " of " +
              format_bytes(status.to_load);
    } else if (status.state == State::serving) {
      char rate[32];
      std::snprintf(rate, sizeof(rate), "%.1f tokens/s", rate_);
      const compute::ExecutorMemory& memory = status.memory;
      text += " " + status.head + ": " + layers_text(status.windows) + ", " + rate + ", " +
              format_bytes(memory.weights + memory.kv_cache + memory.compute_buffers);
    }
    if (is_terminal_) {
      line_.show(text);
    } else if (changed && status.state != State::greeting) {
      std::fprintf(stderr, "prima join: %s\n", text.c_str());
    }
  }

 private:
  const SystemClock clock_{};
  const bool is_terminal_ = ::isatty(STDERR_FILENO) != 0;
  ProgressLine line_;
  std::optional<ring::WorkerStatus::State> state_;
  Instant shown_at_{};
  Instant counted_at_{};
  std::uint64_t tokens_ = 0;
  double rate_ = 0;
};

// Calls `stop` on the first SIGINT or SIGTERM; the second ends the program.
class StopOnSignal {
 public:
  explicit StopOnSignal(std::function<void()> stop) {
    thread_ = std::thread([this, stop = std::move(stop)] {
      int signal = 0;
      ::sigwait(&signals(), &signal);
      stop();
      // Unblocked here only, so that this thread takes the next one, by its default.
      ::pthread_sigmask(SIG_UNBLOCK, &signals(), nullptr);
      done_.wait(false);
    });
  }
  ~StopOnSignal() {
    done_ = true;
    done_.notify_one();
    thread_.join();
  }
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;

  // Before any thread is started: they all inherit it.
  static void block() { ::pthread_sigmask(SIG_BLOCK, &signals(), nullptr); }

 private:
  static const sigset_t& signals() {
    static const sigset_t set = [] {
      sigset_t made;
      ::sigemptyset(&made);
      ::sigaddset(&made, SIGINT);
      ::sigaddset(&made, SIGTERM);
      return made;
    }();
    return set;
  }

  std::atomic<bool> done_{false};
  std::thread thread_;
};

// A line when it begins and one when it is done: it takes minutes, in the background.
void show_store_progress(const weights::StoreProgress& progress) {
  static std::atomic<bool> begun{false};
  if (progress.failed) {
    begun = false;
    std::fprintf(stderr, "prima join: %s\n", progress.failed->message().c_str());
  } else if (!begun.exchange(true)) {
    std::fprintf(stderr,
                 "prima join: writing a compute-ready copy of the weights, %s, while there is "
                 "nothing to do\n",
                 format_bytes(progress.total).c_str());
  } else if (progress.done == progress.total) {
    begun = false;
    std::fprintf(stderr, "prima join: the copy is complete and will be used from the next start\n");
  }
}

Result<int> join(const JoinOptions& options) {
  std::vector<transport::Endpoint> named_heads;
  if (!options.head.empty()) {
    PRIMA_ASSIGN_OR_RETURN(auto endpoint, transport::parse_endpoint(options.head));
    named_heads.push_back(std::move(endpoint));
  }
  for (const auto& model : options.models) {
    std::error_code error;
    if (std::filesystem::is_directory(model, error)) continue;
    PRIMA_RETURN_IF_ERROR(model::ModelFile::open(model));
  }
  std::filesystem::path key_path = options.key_file;
  if (key_path.empty()) {
    PRIMA_ASSIGN_OR_RETURN(key_path, transport::default_key_path());
  }
  PRIMA_ASSIGN_OR_RETURN(const auto key, transport::load_or_create_key(key_path));
  PRIMA_ASSIGN_OR_RETURN(const auto folder, transport::runtime_folder());

  StopOnSignal::block();
  const transport::DerivedKeys keys = transport::derive_keys(key);
  const auto network = transport::make_zmq_network(keys);
  std::unique_ptr<transport::LanListener> lan;
  if (named_heads.empty() && transport::lan_is_wanted()) {
    if (auto listener = transport::LanListener::create(keys.announcement)) {
      lan = std::move(*listener);
    } else {
      std::fprintf(stderr, "prima join: %s\n", listener.error().message().c_str());
    }
  }
  const auto find_heads = [&] {
    if (!named_heads.empty()) return named_heads;
    auto heads = transport::find_local_heads(folder);
    if (!lan) return heads;
    std::set<std::uint16_t> ports;
    for (const transport::Endpoint& head : heads) ports.insert(head.port);
    for (transport::Endpoint& head : lan->heads()) {
      const bool is_known = ports.contains(head.port) && transport::is_this_device(head.host);
      if (!is_known) heads.push_back(std::move(head));
    }
    return heads;
  };
  JoinLine line;
  ring::ModelLibrary library(options.models);
  std::shared_ptr<const model::ModelFile> model;  // outlives the executor made from it
  ring::WorkerOptions worker_options{
      .device_name = options.name.empty() ? ring::host_name() : options.name,
      .find_heads = find_heads,
      .make_executor =
          [&](const ring::Assignment& assignment,
              const compute::LoadProgress& progress) -> Result<std::unique_ptr<compute::Executor>> {
        PRIMA_ASSIGN_OR_RETURN(model,
                               library.find(assignment.model_identity, assignment.model_name));
        compute::ExecutorOptions executor;
        executor.windows = ring::windows_of(assignment.route, assignment.device);
        executor.is_head = false;
        executor.n_ctx = assignment.n_ctx;
        executor.max_tokens = assignment.max_tokens;
        executor.kv_type = assignment.kv_type;
        executor.repack = assignment.repack;
        PRIMA_RETURN_IF_ERROR(apply(options.processor, executor));
        executor.show_store = show_store_progress;
        executor.on_computed =
            learn_from_generation(*model, {.executor = executor, .device_name = options.name});
        ring::apply(assignment.share, executor);
        return compute::Executor::create(*model, executor, progress);
      },
      .profile = [&](const ring::ProfileRequest& request,
                     const std::function<bool()>& go_on) -> Result<std::string> {
        PRIMA_ASSIGN_OR_RETURN(const auto measured,
                               library.find(request.model_identity, request.model_name));
        compute::ExecutorOptions executor;
        executor.is_head = false;
        executor.kv_type = request.kv_type;
        PRIMA_RETURN_IF_ERROR(apply(options.processor, executor));
        PRIMA_ASSIGN_OR_RETURN(
            const auto result,
            profile_this_device(*measured, {.executor = executor, .device_name = options.name},
                                go_on));
        return profile::to_json(result.profile);
      },
      .on_status = [&](const ring::WorkerStatus& status) { line.show(status); }};
  PRIMA_ASSIGN_OR_RETURN(const auto worker,
                         ring::Worker::create(*network, std::move(worker_options)));
  const StopOnSignal stop([&] { worker->stop(); });
  worker->run();
  return kSuccess;
}

}  // namespace

void add_join_command(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<JoinOptions>();
  CLI::App* command = app.add_subcommand("join", "Compute layers for a head");
  command->footer(kJoinFooter);
  command->add_option("-m,--model", options->models, "Model file (GGUF), or a folder of them")
      ->required()
      ->check(CLI::ExistingPath);
  command->add_option("--head", options->head,
                      "HOST:PORT of the head, where it is not found by itself");
  command->add_option("--name", options->name, "What this device is called (the host's name)");
  add_processor_options(*command, options->processor);
  command->add_option("--key-file", options->key_file, "Cluster key, if not the user's own");
  command->callback([options, &exit_code] {
    const auto code = join(*options);
    exit_code = code ? *code : report(code.error());
  });
}

}  // namespace prima::cli

#include "cli/serve_command.h"

#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <CLI/CLI.hpp>

#include "base/clock.h"
#include "base/log.h"
#include "cli/exit_code.h"
#include "cli/json_log.h"
#include "cli/serve_options.h"
#include "cli/stop_signals.h"
#include "cli/text_file.h"
#include "generate/batcher.h"
#include "model/model_file.h"
#include "ring/ring.h"
#include "server/http_server.h"
#include "server/served_model.h"
#include "server/service.h"

namespace prima::cli {

namespace {

constexpr const char* kServeFooter =
    "Programs that talk to OpenAI's API talk to this with http://HOST:PORT/v1 as its address:\n"
    "/v1/chat/completions, /v1/completions, /v1/models; beside them /tokenize, /detokenize, "
    "/health\n"
    "and /metrics (for Prometheus). SIGTERM and Ctrl-C let running answers finish; a second "
    "Ctrl-C\n"
    "does not.\n"
    "\n"
    "Examples:\n"
    "  prima serve -m model.gguf\n"
    "  prima serve -m model.gguf --workers 2 --draft ngram\n"
    "  prima serve -m model.gguf --listen :8080 --api-key SECRET\n"
    "  prima chat --server http://127.0.0.1:8080\n";

// Between tries to form a ring again after it was lost.
constexpr std::chrono::seconds kRetryPause{2};

std::int64_t unix_time() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

Result<server::ServedModel> served_model(const ServeOptions& options, const model::ModelFile& model,
                                         std::uint32_t n_ctx) {
  PRIMA_ASSIGN_OR_RETURN(auto tokenizer, text::Tokenizer::load(model.paths().front()));
  std::string source;
  if (options.chat_template_file) {
    PRIMA_ASSIGN_OR_RETURN(source, read_text_file(*options.chat_template_file));
  }
  PRIMA_ASSIGN_OR_RETURN(auto chat, text::ChatTemplate::load(tokenizer, source));
  const bool can_chat = !source.empty() || chat.is_the_models();
  return server::ServedModel{
      .name = options.name.empty() ? options.model.stem().string() : options.name,
      .tokenizer = std::move(tokenizer),
      .chat_template = can_chat ? std::optional(std::move(chat)) : std::nullopt,
      .max_context = n_ctx,
      .n_embd = model.hyperparameters().n_embd,
      .pooling = model.hyperparameters().pooling,
      .created = unix_time()};
}

class Server {
 public:
  Server(const ServeOptions& options, const model::ModelFile& model,
         const server::ServedModel& served, std::uint32_t n_cells, server::Service& service)
      : options_(options),
        model_(model),
        served_(served),
        formation_(ring_options(options.devices, n_cells, model)),
        service_(service) {}

  // Until it is asked to stop; forms the ring again where it is lost. Fails where it cannot be
  // formed at first.
  Status run() {
    PRIMA_ASSIGN_OR_RETURN(const auto drafter, make_drafter(options_.draft, served_.tokenizer,
                                                            formation_.executor, clock_));
    formation_.progress = [this](const ring::FormationProgress& progress) {
      service_.loading(describe(progress));
      return !service_.is_draining();
    };
    bool has_served = false;
    while (!service_.is_draining()) {
      const auto ring = ring::form_ring(model_, formation_);
      if (!ring && (service_.is_draining() || !has_served)) return told(ring.error());
      if (!ring) {
        service_.loading("Waiting for the devices: " + ring.error().message());
        std::this_thread::sleep_for(kRetryPause);
        continue;
      }
      if (!std::exchange(has_served, true)) std::fprintf(stderr, "Ready.\n");
      const Status served = serve(**ring, drafter.get());
      if (!served) log::error("{}", served.error().message());
      if (!served) service_.loading("Forming the ring again: " + served.error().message());
    }
    return {};
  }

 private:
  Status serve(ring::Ring& ring, generate::Drafter* drafter) {
    generate::Engine engine(
        ring, {.n_ctx = formation_.executor.n_ctx, .max_tokens = ring.describe().max_tokens},
        clock_);
    generate::Batcher batcher(engine, served_.tokenizer,
                              {.max_context = served_.max_context,
                               .max_running = options_.parallel,
                               .max_queued = options_.queue + options_.parallel,
                               .decode_groups = generate::useful_decode_groups(ring.describe())},
                              clock_, drafter);
    return service_.drive(batcher, ring);
  }

  // A formation that was cancelled is a stop, not a failure.
  Status told(const Error& error) const {
    if (service_.is_draining()) return {};
    return tl::unexpected(error);
  }

  const ServeOptions& options_;
  const model::ModelFile& model_;
  const server::ServedModel& served_;
  ring::RingOptions formation_;
  server::Service& service_;
  const SystemClock clock_;
};

Result<int> serve(const ServeOptions& options) {
  PRIMA_RETURN_IF_ERROR(check(options));
  PRIMA_ASSIGN_OR_RETURN(const server::HttpOptions http, http_options(options));
  StopSignals signals;
  if (options.json_log) log_as_json();
  PRIMA_ASSIGN_OR_RETURN(const auto model, model::ModelFile::open(options.model));
  PRIMA_ASSIGN_OR_RETURN(const std::uint32_t n_ctx,
                         context_size(options.context, model.hyperparameters()));
  PRIMA_ASSIGN_OR_RETURN(const std::uint32_t n_cells,
                         cell_count(options, n_ctx, model.hyperparameters()));
  PRIMA_ASSIGN_OR_RETURN(const auto served, served_model(options, model, n_ctx));

  const SystemClock clock;
  server::Service service({.max_pending = options.queue + options.parallel,
                           .drain_limit = std::chrono::seconds(options.drain_seconds)},
                          clock);
  service.loading("Starting");
  PRIMA_ASSIGN_OR_RETURN(const auto server, server::HttpServer::start(http, service, served));
  std::fprintf(stderr, "Listening on http://%s:%u/v1, loading %s\n", http.host.c_str(),
               unsigned{server->port()}, served.name.c_str());
  signals.start([&service] {
    std::fprintf(stderr, "Finishing the answers under way.\n");
    service.drain();
  });
  const Status status = Server(options, model, served, n_cells, service).run();
  service.stopped();
  PRIMA_RETURN_IF_ERROR(status);
  return kSuccess;
}

}  // namespace

void add_serve_command(CLI::App& app, int& exit_code) {
  CLI::App* command =
      app.add_subcommand("serve", "Answer programs over HTTP, as OpenAI's API does");
  command->footer(kServeFooter);
  auto options = std::make_shared<ServeOptions>();
  add_serve_options(*command, *options);
  command->callback([options, &exit_code] {
    const auto result = serve(*options);
    exit_code = result ? *result : report(result.error());
  });
}

}  // namespace prima::cli

#include "cli/serve_options.h"

#include <charconv>

#include <CLI/CLI.hpp>

namespace prima::cli {

namespace {

constexpr std::int64_t kMostCells = std::int64_t{1} << 24;

// Where one context is smaller, several conversations should still have room.
constexpr std::uint32_t kFewCells = 8192;

}  // namespace

void add_serve_options(CLI::App& command, ServeOptions& options) {
  command
      .add_option("-m,--model", options.model, "The model: a GGUF file, or the first of a split")
      ->required();
  auto* chat_template = command.add_option("--chat-template", options.chat_template_file,
                                           "A file with a Jinja template, instead of the model's");
  chat_template->type_name("FILE");
  command.add_option("--name", options.name, "What clients call the model (its file's name)");

  const char* http = "HTTP";
  auto* listen = command.add_option("--listen", options.listen,
                                    "HOST:PORT; \":8080\" for every address of this computer");
  listen->capture_default_str();
  auto* keys = command.add_option("--api-key", options.api_keys,
                                  "A key that clients must send; may be given several times");
  keys->allow_extra_args(false);
  auto* cors = command.add_option("--cors", options.cors_origin,
                                  "Web pages from this origin may ask, \"*\": from any (none)");
  auto* drain = command.add_option("--drain", options.drain_seconds,
                                   "Seconds that running answers have after SIGTERM");
  drain->capture_default_str();
  auto* json_log = command.add_flag("--json-log", options.json_log,
                                    "Log each request as a line of JSON, on standard error");
  for (auto* option : {listen, keys, cors, drain, json_log}) option->group(http);

  const char* users = "Conversations";
  auto* context = command.add_option("-c,--ctx-size", options.context,
                                     "Tokens of one conversation at most (4096, or what the model "
                                     "was trained for)");
  auto* cells = command.add_option("--kv-cells", options.cells,
                                   "Tokens of all conversations together that are kept (one "
                                   "context, but at least 8192)");
  auto* parallel =
      command.add_option("--parallel", options.parallel, "Answers written at once, at most");
  auto* queue = command.add_option("--queue", options.queue,
                                   "Requests that may wait besides; more are told to come later");
  parallel->check(CLI::Range(1, 64))->capture_default_str();
  queue->check(CLI::Range(0, 100000))->capture_default_str();
  for (auto* option : {context, cells, parallel, queue}) option->group(users);
  add_draft_options(command, options.draft);
  add_device_options(command, options.devices);
}

Status check(const ServeOptions& options) {
  PRIMA_RETURN_IF_ERROR(http_options(options));
  for (const std::string& key : options.api_keys) {
    if (!key.empty()) continue;
    return fail(ErrorCode::invalid_argument, "--api-key \"\" is no key", "Give a text");
  }
  return check(options.devices);
}

Result<server::HttpOptions> http_options(const ServeOptions& options) {
  const std::string& text = options.listen;
  const std::size_t colon = text.rfind(':');
  std::string host = colon == std::string::npos ? "127.0.0.1" : text.substr(0, colon);
  if (host.empty()) host = "0.0.0.0";
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);  // IPv6
  }
  const std::string port = colon == std::string::npos ? text : text.substr(colon + 1);
  std::uint16_t number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error != std::errc() || end != port.data() + port.size()) {
    return fail(ErrorCode::invalid_argument, "--listen " + text + " is no address",
                "Give HOST:PORT, such as 127.0.0.1:8080, or :8080 for every address");
  }
  return server::HttpOptions{.host = host,
                             .port = number,
                             .api_keys = options.api_keys,
                             .cors_origin = options.cors_origin};
}

Result<std::uint32_t> cell_count(const ServeOptions& options, std::uint32_t n_ctx,
                                 const model::Hyperparameters& model) {
  // Phi 3 chooses its rope factors by the number of cells: a short context keeps the short ones.
  const std::uint32_t original = model.rope.n_ctx_original;
  const bool keeps_short = original < model.n_ctx_train && n_ctx <= original;
  const std::uint32_t few = keeps_short ? std::min(kFewCells, original) : kFewCells;
  if (!options.cells) return std::max(n_ctx, few);
  if (*options.cells < n_ctx || *options.cells > kMostCells) {
    return fail(
        ErrorCode::invalid_argument, "--kv-cells " + std::to_string(*options.cells) + " cannot be",
        "Give " + std::to_string(n_ctx) + " (one context) to " + std::to_string(kMostCells));
  }
  return static_cast<std::uint32_t>(*options.cells);
}

}  // namespace prima::cli

// What `prima serve` is asked on its command line.
//
// Value type; thread-compatible.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/device_options.h"
#include "cli/draft_options.h"
#include "model/hyperparameters.h"
#include "server/http_server.h"

namespace CLI {
class App;
}

namespace prima::cli {

struct ServeOptions {
  std::filesystem::path model;
  std::string name;
  std::optional<std::filesystem::path> chat_template_file;
  std::string listen = "127.0.0.1:8080";
  std::vector<std::string> api_keys;
  std::string cors_origin;
  std::optional<std::int64_t> context;
  std::optional<std::int64_t> cells;
  std::uint32_t parallel = 32;
  std::uint32_t queue = 128;
  std::uint32_t drain_seconds = 30;
  bool json_log = false;
  DraftOptions draft;
  DeviceOptions devices;
};

void add_serve_options(CLI::App& command, ServeOptions& options);

// What needs no model to be found wrong. Fails with invalid_argument.
Status check(const ServeOptions& options);

// "HOST:PORT", ":PORT" (every address) or "PORT" (this computer alone). Fails with
// invalid_argument.
Result<server::HttpOptions> http_options(const ServeOptions& options);

// KV cells of all conversations together: what was asked for; else as many as one context, or 8192
// where that is less. Fails with invalid_argument if that is less than one context.
Result<std::uint32_t> cell_count(const ServeOptions& options, std::uint32_t n_ctx,
                                 const model::Hyperparameters& model);

}  // namespace prima::cli

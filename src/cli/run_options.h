// What `prima run` is asked on its command line.
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
#include "text/sampler.h"

namespace CLI {
class App;
}

namespace prima::cli {

struct RunOptions {
  std::filesystem::path model;

  // At most one of the two; neither: standard input, or a chat on a terminal.
  std::optional<std::string> prompt;
  std::optional<std::filesystem::path> prompt_file;
  std::string system;
  bool raw = false;
  std::optional<std::filesystem::path> chat_template_file;

  std::optional<std::int64_t> max_tokens;
  std::optional<std::int64_t> context;
  std::vector<std::string> stops;
  bool ignore_end = false;

  text::SamplerOptions sampler;  // without seed and grammar, which are below
  std::optional<std::int64_t> seed;
  std::optional<std::filesystem::path> grammar_file;
  std::optional<std::filesystem::path> json_schema_file;

  DraftOptions draft;
  DeviceOptions devices;

  std::optional<std::filesystem::path> json;
};

void add_run_options(CLI::App& command, RunOptions& options);

// Those of them that a conversation has: no prompt, and the model may be left out.
void add_conversation_options(CLI::App& command, RunOptions& options);

// What needs no model to be found wrong. Fails with invalid_argument.
Status check(const RunOptions& options);

// With grammar and seed; a random one if none was given. Fails with invalid_argument or io.
Result<text::SamplerOptions> sampler_options(const RunOptions& options);

}  // namespace prima::cli

// `prima model`: looks at model files and makes synthetic ones.
#pragma once

#include <CLI/CLI.hpp>

namespace prima::cli {

// Adds the subcommand `model` with `inspect` and `synth`. Their callbacks run the command and set
// `exit_code`, which must outlive `app`'s parsing.
void add_model_command(CLI::App& app, int& exit_code);

}  // namespace prima::cli

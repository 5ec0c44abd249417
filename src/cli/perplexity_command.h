// prima model perplexity: how well a model, and how Prima computes it, predicts a text.
#pragma once

namespace CLI {
class App;
}

namespace prima::cli {

// REQUIRES: add_model_command was called, whose subcommand this becomes.
void add_perplexity_command(CLI::App& app, int& exit_code);

}  // namespace prima::cli

// prima run: load a model, alone or with other devices, and answer.
#pragma once

namespace CLI {
class App;
}

namespace prima::cli {

void add_run_command(CLI::App& app, int& exit_code);

}  // namespace prima::cli

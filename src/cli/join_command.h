// prima join: this device computes layers for a head.
#pragma once

namespace CLI {
class App;
}

namespace prima::cli {

void add_join_command(CLI::App& app, int& exit_code);

}  // namespace prima::cli

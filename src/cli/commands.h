// All subcommands. commands.cpp is written by CMakeLists.txt from the list there.
#pragma once

namespace CLI {
class App;
}

namespace prima::cli {

// Each subcommand sets `exit_code` when it was run.
void add_commands(CLI::App& app, int& exit_code);

}  // namespace prima::cli

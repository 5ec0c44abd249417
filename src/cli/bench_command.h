// prima bench: loads a running server with users, and says how long they wait.
#pragma once

namespace CLI {
class App;
}

namespace prima::cli {

void add_bench_command(CLI::App& app, int& exit_code);

}  // namespace prima::cli

// prima status: how the ring of a running head is.
#pragma once

namespace CLI {
class App;
}

namespace prima::cli {

void add_status_command(CLI::App& app, int& exit_code);

}  // namespace prima::cli

// prima key: the secret that the devices of a cluster share.
#pragma once

namespace CLI {
class App;
}

namespace prima::cli {

void add_key_command(CLI::App& app, int& exit_code);

}  // namespace prima::cli

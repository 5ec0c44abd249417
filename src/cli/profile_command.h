// prima profile: measures what this device can do with a model.
#pragma once

namespace CLI {
class App;
}

namespace prima::cli {

void add_profile_command(CLI::App& app, int& exit_code);

}  // namespace prima::cli

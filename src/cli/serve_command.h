// prima serve: an OpenAI-compatible API for several users at once, alone or with other devices.
#pragma once

namespace CLI {
class App;
}

namespace prima::cli {

void add_serve_command(CLI::App& app, int& exit_code);

}  // namespace prima::cli

// prima chat: a conversation on the terminal, with a running server or with a model in this
// process.
#pragma once

namespace CLI {
class App;
}

namespace prima::cli {

void add_chat_command(CLI::App& app, int& exit_code);

}  // namespace prima::cli

// prima plan: says how a cluster would run a model, and why.
#pragma once

namespace CLI {
class App;
}

namespace prima::cli {

void add_plan_command(CLI::App& app, int& exit_code);

}  // namespace prima::cli

// The log as one JSON object a line, for programs that collect logs.
#pragma once

namespace prima::cli {

// From now on, and from level info.
void log_as_json();

}  // namespace prima::cli

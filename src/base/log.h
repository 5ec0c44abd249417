// Logging to standard error through spdlog; standard output belongs to answers.
//
// Thread-safe.
#pragma once

#include <string_view>

#include <spdlog/spdlog.h>

#include "base/result.h"

namespace prima::log {

using spdlog::debug;
using spdlog::error;
using spdlog::info;
using spdlog::warn;

// Whether debug() is heard, for what takes time to put into words.
inline bool is_verbose() { return spdlog::should_log(spdlog::level::debug); }

// Once, at the start of main. `level`: trace, debug, info, warn, error or off.
Status start(std::string_view level);

}  // namespace prima::log

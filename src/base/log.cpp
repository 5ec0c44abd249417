#include "base/log.h"

#include <string>

#include <spdlog/sinks/stdout_color_sinks.h>

namespace prima::log {

Status start(std::string_view level) {
  const auto parsed = spdlog::level::from_str(std::string(level));
  if (parsed == spdlog::level::off && level != "off") {
    return fail(ErrorCode::invalid_argument, "'" + std::string(level) + "' is not a log level",
                "Use trace, debug, info, warn, error or off");
  }
  if (!spdlog::get("prima")) spdlog::set_default_logger(spdlog::stderr_color_mt("prima"));
  spdlog::set_pattern("%^%l%$: %v");
  spdlog::set_level(parsed);
  return {};
}

}  // namespace prima::log

#include "cli/json_log.h"

#include <memory>

#include <nlohmann/json.hpp>
#include <spdlog/formatter.h>
#include <spdlog/spdlog.h>

namespace prima::cli {

namespace {

class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const auto since_epoch = message.time.time_since_epoch();
    const nlohmann::ordered_json line = {
        {"time", std::chrono::duration<double>(since_epoch).count()},
        {"level", spdlog::level::to_short_c_str(message.level)},
        {"message", std::string(message.payload.data(), message.payload.size())}};
    const std::string text =
        line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonFormatter>();
  }
};

}  // namespace

void log_as_json() {
  spdlog::set_formatter(std::make_unique<JsonFormatter>());
  if (spdlog::get_level() > spdlog::level::info) spdlog::set_level(spdlog::level::info);
}

}  // namespace prima::cli

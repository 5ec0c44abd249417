#include "server/api_error.h"

#include <utility>

#include <nlohmann/json.hpp>

namespace prima::server {

std::string ApiError::body() const {
  const auto or_null = [](const std::string& text) {
    return text.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(text);
  };
  const nlohmann::ordered_json error = {
      {"message", message}, {"type", type}, {"param", or_null(param)}, {"code", or_null(code)}};
  // A message may quote what the client sent.
  return nlohmann::ordered_json{{"error", error}}.dump(
      -1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

ApiError bad_request(std::string param, std::string message) {
  return {.status = 400,
          .message = std::move(message),
          .type = "invalid_request_error",
          .param = std::move(param)};
}

ApiError api_error(const Error& error, std::string param) {
  switch (error.code) {
    case ErrorCode::invalid_argument: return bad_request(std::move(param), error.message());
    case ErrorCode::resource_exhausted:
      return {.status = 429,
              .message = error.message(),
              .type = "rate_limit_error",
              .code = "server_busy",
              .retry_after_seconds = 1};
    case ErrorCode::unavailable:
      return {.status = 503,
              .message = error.message(),
              .type = "server_error",
              .code = "unavailable",
              .retry_after_seconds = 5};
    default: return {.status = 500, .message = error.message(), .type = "server_error"};
  }
}

}  // namespace prima::server

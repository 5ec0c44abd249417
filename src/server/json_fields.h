// Reading an object's fields one after another, remembering the first that is wrong.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "server/api_error.h"

namespace prima::server {

using Json = nlohmann::ordered_json;

// The JSON object that a body is. Fails with 400 on anything else: no JSON, invalid UTF-8, nested
// too deeply.
ApiResult<Json> parse_object(std::string_view body);

// On one line; what is no UTF-8 (a token may end inside a character) becomes U+FFFD.
std::string print_json(const Json& json);

class Fields {
 public:
  // `path` precedes names in messages: "stream_options.".
  explicit Fields(const Json& object, std::string path = {})
      : object_(object), path_(std::move(path)) {}

  // The field, or null if it is missing or JSON's null.
  const Json* find(const char* name) const;

  // Each sets `value` where the field is there and of the right type and range; else it stays.
  void read(const char* name, bool& value);
  void read(const char* name, std::string& value);
  void read(const char* name, double low, double high, float& value);
  void read(const char* name, std::int64_t low, std::int64_t high, std::int64_t& value);

  // An object's own fields; null where there is none.
  const Json* object(const char* name);

  void wrong(const std::string& name, std::string message);
  const std::optional<ApiError>& error() const { return error_; }

 private:
  const Json& object_;
  const std::string path_;
  std::optional<ApiError> error_;
};

}  // namespace prima::server

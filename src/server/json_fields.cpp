#include "server/json_fields.h"

#include <cmath>
#include <exception>
#include <utility>

#include <spdlog/fmt/fmt.h>

namespace prima::server {

namespace {

// Deeper than any schema, far from what recursion over it could not bear.
constexpr int kMaxDepth = 64;

struct TooDeep : std::exception {};

// Messages of the JSON library begin with its own names: "[json.exception.parse_error.101] ...".
std::string plain(std::string_view what) {
  const std::size_t end = what.find("] ");
  return std::string(end == std::string_view::npos ? what : what.substr(end + 2));
}

}  // namespace

ApiResult<Json> parse_object(std::string_view body) {
  try {
    Json json = Json::parse(body, [](int depth, Json::parse_event_t, Json&) {
      if (depth > kMaxDepth) throw TooDeep();
      return true;
    });
    if (json.is_object()) return json;
    return tl::unexpected(bad_request("", "The body must be a JSON object"));
  } catch (const TooDeep&) {
    return tl::unexpected(
        bad_request("", fmt::format("The JSON is nested deeper than {} levels", kMaxDepth)));
  } catch (const std::exception& error) {
    return tl::unexpected(bad_request("", "The body is not JSON: " + plain(error.what())));
  }
}

std::string print_json(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

const Json* Fields::find(const char* name) const {
  const auto field = object_.find(name);
  return field == object_.end() || field->is_null() ? nullptr : &*field;
}

void Fields::wrong(const std::string& name, std::string message) {
  if (!error_) error_ = bad_request(path_ + name, "'" + path_ + name + "' " + std::move(message));
}

void Fields::read(const char* name, bool& value) {
  const Json* field = find(name);
  if (field == nullptr) return;
  if (!field->is_boolean()) return wrong(name, "must be true or false");
  value = field->get<bool>();
}

void Fields::read(const char* name, std::string& value) {
  const Json* field = find(name);
  if (field == nullptr) return;
  if (!field->is_string()) return wrong(name, "must be a string");
  value = field->get<std::string>();
}

void Fields::read(const char* name, double low, double high, float& value) {
  const Json* field = find(name);
  if (field == nullptr) return;
  if (!field->is_number()) return wrong(name, "must be a number");
  const double number = field->get<double>();
  if (!(number >= low && number <= high)) {
    return wrong(name, fmt::format("is {}, but must be between {} and {}", number, low, high));
  }
  value = static_cast<float>(number);
}

void Fields::read(const char* name, std::int64_t low, std::int64_t high, std::int64_t& value) {
  const Json* field = find(name);
  if (field == nullptr) return;
  // 3.0 is a whole number too; programs write it so.
  const double number = field->is_number() ? field->get<double>() : NAN;
  if (!(std::floor(number) == number)) return wrong(name, "must be a whole number");
  if (!(number >= static_cast<double>(low) && number <= static_cast<double>(high))) {
    return wrong(name, fmt::format("is {}, but must be between {} and {}", number, low, high));
  }
  value =
      field->is_number_integer() ? field->get<std::int64_t>() : static_cast<std::int64_t>(number);
}

const Json* Fields::object(const char* name) {
  const Json* field = find(name);
  if (field == nullptr) return nullptr;
  if (field->is_object()) return field;
  wrong(name, "must be an object");
  return nullptr;
}

}  // namespace prima::server

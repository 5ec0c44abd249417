// What a client is told when something cannot be done: an HTTP status and an error in OpenAI's
// shape.
//
// Value type; thread-compatible.
#pragma once

#include <string>

#include <tl/expected.hpp>

#include "base/result.h"

namespace prima::server {

struct ApiError {
  int status = 500;
  std::string message;
  std::string type = "server_error";
  std::string param = {};  // the field of the request that is wrong, if it is one
  std::string code = {};
  int retry_after_seconds = 0;  // 0: not said

  // {"error": {"message", "type", "param", "code"}}
  std::string body() const;
};

template <typename T>
using ApiResult = tl::expected<T, ApiError>;

// 400: the request says something that cannot be. `param` as OpenAI names fields, such as
// "messages[0].role".
ApiError bad_request(std::string param, std::string message);

// The status that goes with an error from inside Prima.
ApiError api_error(const Error& error, std::string param = {});

}  // namespace prima::server

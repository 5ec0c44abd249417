#include "base/result.h"

namespace prima {

const char* to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument: return "invalid argument";
    case ErrorCode::not_found: return "not found";
    case ErrorCode::corrupt: return "corrupt";
    case ErrorCode::unsupported: return "unsupported";
    case ErrorCode::resource_exhausted: return "resource exhausted";
    case ErrorCode::deadline_exceeded: return "deadline exceeded";
    case ErrorCode::unavailable: return "unavailable";
    case ErrorCode::cancelled: return "cancelled";
    case ErrorCode::io: return "input/output error";
    case ErrorCode::internal: return "internal error";
  }
  return "unknown error";
}

std::string Error::message() const {
  if (remedy.empty()) return what;
  return what + ". " + remedy;
}

}  // namespace prima

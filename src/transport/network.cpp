#include "transport/network.h"

#include <charconv>

namespace prima::transport {

std::string to_string(const Endpoint& endpoint) {
  return endpoint.host + ":" + std::to_string(endpoint.port);
}

Result<Endpoint> parse_endpoint(const std::string& text) {
  const auto colon = text.rfind(':');
  std::uint16_t port = 0;
  if (colon != std::string::npos && colon > 0) {
    const char* const end = text.data() + text.size();
    const auto [stopped, error] = std::from_chars(text.data() + colon + 1, end, port);
    if (error == std::errc() && stopped == end && port != 0) {
      return Endpoint{text.substr(0, colon), port};
    }
  }
  return fail(ErrorCode::invalid_argument, "'" + text + "' is not an address",
              "Give HOST:PORT, for example 192.168.1.7:5000");
}

}  // namespace prima::transport

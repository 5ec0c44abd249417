// How long a client may take over its part.
#pragma once

#include "base/clock.h"

namespace prima::server {

struct ConnectionLimits {
  Duration request = std::chrono::seconds(60);  // from a request's first byte to its last
  Duration read = std::chrono::seconds(10);     // without a byte of it
  Duration write = std::chrono::seconds(20);    // without room for more of the answer
  Duration idle = std::chrono::seconds(5);      // between requests
};

}  // namespace prima::server

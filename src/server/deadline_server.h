// cpp-httplib's server, with a limit for a request as a whole. The library's own limits are for
// each read: who sends a byte now and then would hold a thread for hours.
//
// Who reads slowly has a limit already: a write waits until a good part of the socket's buffer is
// free, and gives up where that takes longer than the write limit.
//
// Thread-safety: the library's.
#pragma once

#include <cpp-httplib/httplib.h>

#include "server/connection_limits.h"

namespace prima::server {

class DeadlineServer final : public httplib::Server {
 public:
  explicit DeadlineServer(const ConnectionLimits& limits);

 private:
  bool process_and_close_socket(socket_t socket) override;

  const ConnectionLimits limits_;
};

}  // namespace prima::server

// A client's socket: what the server asks of the system about it.
//
// Thread-safe.
#pragma once

#include <string>

#include <cpp-httplib/httplib.h>

#include "base/clock.h"

namespace prima::server {

enum class SocketEvent { readable, writable };

// False if it does not come in time.
bool wait_for(socket_t socket, SocketEvent event, Duration limit);

// Whether the client may still read what it is sent.
bool is_open(socket_t socket);

struct SocketAddress {
  std::string host;
  int port = 0;
};

SocketAddress remote_address(socket_t socket);
SocketAddress local_address(socket_t socket);

// So that what was sent arrives, even where the client is still sending: for a moment that is read
// and dropped, since a socket closed before would take the answer back.
void close_gently(socket_t socket);

}  // namespace prima::server

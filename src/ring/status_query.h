// Asks a running head how it is.
//
// Thread-safe.
#pragma once

#include "base/result.h"
#include "ring/messages.h"
#include "transport/network.h"

namespace prima::ring {

// Fails with deadline_exceeded if the head does not answer (it may have another cluster key), or
// with what it says.
Result<StatusReply> query_status(transport::Network& network, const transport::Endpoint& head,
                                 Instant deadline);

}  // namespace prima::ring

// How fast a link is: messages of the sizes that steps have, there and back, over the same sockets
// that steps will use.
//
// A probe is a message to a device's data listener that asks for so many bytes in return. With
//
//     round trip of a token's hidden state s    2 latency + s/forward + s/backward
//     a large message of L bytes there          2 latency + L/forward
//     a large message of L bytes back           2 latency + L/backward
//
// measured, three unknowns are three sums.
//
// Thread-compatible.
#pragma once

#include "base/result.h"
#include "profile/device_profile.h"
#include "transport/network.h"

namespace prima::ring {

bool is_probe(const transport::Message& message);

// Sends back what the probe asks for; does nothing if it asks for too much.
void answer_probe(transport::Listener& listener, const transport::Incoming& incoming);

// Takes some tenths of a second on a fast link, two seconds on the slowest. Fails with unavailable
// if no answer comes.
Result<profile::LinkProfile> measure_link(transport::Network& network,
                                          const transport::Endpoint& to, Bytes step_bytes,
                                          Bytes most_bytes);

}  // namespace prima::ring

// The network over TCP: ZeroMQ with CURVE. Everything is authenticated and encrypted; whoever does
// not hold the cluster key fails in the handshake, before any message of theirs is kept, and no
// frame above kMaxFrameBytes is given memory.
//
// On the wire a message is one frame with the header, then the payload in frames of at most
// kPayloadFrameBytes.
#pragma once

#include <memory>

#include "transport/cluster_key.h"
#include "transport/network.h"

namespace prima::transport {

inline constexpr std::size_t kPayloadFrameBytes = 256 * 1024;

// A header frame is small, but grows with the tokens of a step.
inline constexpr std::size_t kMaxFrameBytes = 2 * kPayloadFrameBytes;

// A step of 4096 tokens of a model 16384 wide, in f32. Larger messages are dropped.
inline constexpr Bytes kMaxMessageBytes = 256 * kMiB + kMaxFrameBytes;

// Threads: one that moves and encrypts bytes, one of ZeroMQ's own, one that answers who may
// connect. REQUIRES: all listeners and links are destroyed before the network.
std::unique_ptr<Network> make_zmq_network(const DerivedKeys& keys);

}  // namespace prima::transport

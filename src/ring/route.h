// A step's way through the ring: which device runs which layers, in which order.
//
// Invariants of a Route:
//  1. The hops' layers are consecutive, none is empty, together they are all layers of the model.
//  2. No two hops that follow each other are on one device.
//
// The head sends a step to the device of the first hop (itself, where it has a window in the first
// round), each device on to that of the next hop, the last back to the head.
//
// Value types; thread-compatible.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "base/result.h"
#include "compute/executor.h"

namespace prima::ring {

inline constexpr std::uint32_t kHead = 0;  // the head's place in the ring
inline constexpr std::uint32_t kMaxDevices = 64;

struct Hop {
  std::uint32_t device = kHead;
  std::uint32_t round = 0;
  compute::LayerRange layers;

  friend bool operator==(const Hop&, const Hop&) = default;
};

struct Route {
  std::vector<Hop> hops;

  friend bool operator==(const Route&, const Route&) = default;
};

// Fails with corrupt if the route breaks an invariant, or names devices beyond n_devices.
Status check_route(const Route& route, std::uint32_t n_layer, std::uint32_t n_devices);

// `windows`: layers per device, head first, the same in each round; 0 leaves a device out. The last
// round is cut at the model's last layer, or its last window extended to it. Where they sum to the
// model's layers they are of all rounds together, and dealt over them. Empty: an even split.
// The first and last `private_layers` of the model go to the head besides. Fails with
// invalid_argument.
Result<Route> make_route(std::uint32_t n_layer, std::uint32_t n_devices,
                         std::span<const std::uint32_t> windows, std::uint32_t rounds,
                         std::uint32_t private_layers);

// The layers that a device holds.
std::vector<compute::LayerRange> windows_of(const Route& route, std::uint32_t device);

// (from, to), each once; none leads from a device to itself.
using DevicePair = std::pair<std::uint32_t, std::uint32_t>;
std::set<DevicePair> links_of(const Route& route);

}  // namespace prima::ring

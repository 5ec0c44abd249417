#include "ring/route.h"

#include <numeric>
#include <string>

namespace prima::ring {
namespace {

// Adds layers to the way, on to the last hop where that is on the same device.
void append(Route& route, std::uint32_t device, std::uint32_t round, std::uint32_t n_layers) {
  if (n_layers == 0) return;
  const std::uint32_t first = route.hops.empty() ? 0 : route.hops.back().layers.last;
  if (!route.hops.empty() && route.hops.back().device == device) {
    route.hops.back().layers.last += n_layers;
    return;
  }
  route.hops.push_back({device, round, {first, first + n_layers}});
}

// One number per device and round, round by round.
std::vector<std::uint32_t> even_windows(std::uint32_t n_layers, std::uint32_t n_windows) {
  std::vector<std::uint32_t> windows(n_windows, n_layers / n_windows);
  for (std::uint32_t i = 0; i < n_layers % n_windows; ++i) ++windows[i];
  return windows;
}

// Each device's layers of all rounds, dealt over them as evenly as possible (as plan/layout.h
// does).
std::vector<std::uint32_t> dealt_windows(std::span<const std::uint32_t> layers,
                                         std::uint32_t rounds) {
  std::vector<std::uint32_t> windows;
  for (std::uint32_t round = 0; round < rounds; ++round) {
    for (const std::uint32_t n : layers) {
      const auto up_to = [&](std::uint32_t i) { return (n * i + rounds - 1) / rounds; };
      windows.push_back(up_to(round + 1) - up_to(round));
    }
  }
  return windows;
}

Result<std::vector<std::uint32_t>> repeated_windows(std::uint32_t n_layers,
                                                    std::span<const std::uint32_t> windows,
                                                    std::uint32_t rounds) {
  std::vector<std::uint32_t> repeated;
  std::uint64_t left = n_layers;
  for (std::uint32_t round = 0; round < rounds; ++round) {
    for (const std::uint32_t window : windows) {
      if (window > left && round + 1 < rounds) {
        return fail(ErrorCode::invalid_argument,
                    std::to_string(rounds) + " rounds of these windows are more than the " +
                        std::to_string(n_layers) + " layers there are",
                    "Give smaller windows or fewer rounds");
      }
      repeated.push_back(static_cast<std::uint32_t>(std::min<std::uint64_t>(window, left)));
      left -= repeated.back();
    }
  }
  for (auto window = repeated.rbegin(); left > 0 && window != repeated.rend(); ++window) {
    if (*window == 0) continue;
    *window += static_cast<std::uint32_t>(left);
    left = 0;
  }
  if (left > 0) {
    return fail(ErrorCode::invalid_argument, "All windows are 0",
                "Give at least one device layers");
  }
  return repeated;
}

}  // namespace

Status check_route(const Route& route, std::uint32_t n_layer, std::uint32_t n_devices) {
  std::uint32_t next = 0;
  for (std::size_t i = 0; i < route.hops.size(); ++i) {
    const Hop& hop = route.hops[i];
    if (hop.layers.first != next || hop.layers.last <= hop.layers.first ||
        hop.layers.last > n_layer || hop.device >= n_devices ||
        (i > 0 &&
         (route.hops[i - 1].device == hop.device || route.hops[i - 1].round > hop.round))) {
      return fail(ErrorCode::corrupt, "Hop " + std::to_string(i) + " of the ring cannot be");
    }
    next = hop.layers.last;
  }
  if (next != n_layer) return fail(ErrorCode::corrupt, "The ring does not cover all layers");
  return {};
}

Result<Route> make_route(std::uint32_t n_layer, std::uint32_t n_devices,
                         std::span<const std::uint32_t> windows, std::uint32_t rounds,
                         std::uint32_t private_layers) {
  if (rounds == 0 || rounds > n_layer) {
    return fail(ErrorCode::invalid_argument, std::to_string(rounds) + " rounds are not possible",
                "Give 1 to " + std::to_string(n_layer) + " rounds");
  }
  if (n_devices == 0 || n_devices > kMaxDevices) {
    return fail(ErrorCode::invalid_argument,
                "A ring has 1 to " + std::to_string(kMaxDevices) + " devices");
  }
  if (private_layers > n_layer / 2) {
    return fail(ErrorCode::invalid_argument, std::to_string(private_layers) +
                                                 " private layers at both ends are more than the " +
                                                 std::to_string(n_layer) + " there are");
  }
  if (!windows.empty() && windows.size() != n_devices) {
    return fail(ErrorCode::invalid_argument,
                std::to_string(windows.size()) + " windows were given for " +
                    std::to_string(n_devices) + " devices",
                "Give one number per device, the head first, for example --windows 4,4,14");
  }
  const std::uint32_t n_shared = n_layer - 2 * private_layers;
  std::vector<std::uint32_t> counts;
  if (windows.empty()) {
    counts = even_windows(n_shared, n_devices * rounds);
  } else if (std::accumulate(windows.begin(), windows.end(), std::uint64_t{0}) == n_shared) {
    counts = dealt_windows(windows, rounds);
  } else if (n_shared > 0) {
    PRIMA_ASSIGN_OR_RETURN(counts, repeated_windows(n_shared, windows, rounds));
  }
  Route route;
  append(route, kHead, 0, private_layers);
  for (std::uint32_t i = 0; i < counts.size(); ++i) {
    append(route, i % n_devices, i / n_devices, counts[i]);
  }
  append(route, kHead, rounds - 1, private_layers);
  return route;
}

std::vector<compute::LayerRange> windows_of(const Route& route, std::uint32_t device) {
  std::vector<compute::LayerRange> windows;
  for (const Hop& hop : route.hops) {
    if (hop.device == device) windows.push_back(hop.layers);
  }
  return windows;
}

std::set<DevicePair> links_of(const Route& route) {
  std::set<DevicePair> links;
  std::uint32_t from = kHead;
  for (const Hop& hop : route.hops) {
    if (hop.device != from) links.insert({from, hop.device});
    from = hop.device;
  }
  if (from != kHead) links.insert({from, kHead});
  return links;
}

}  // namespace prima::ring

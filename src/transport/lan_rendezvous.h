// How a head and workers on one local network find each other: while a head gathers workers, it
// announces its port by UDP multicast, on every IPv4 network that the device is on.
//
// An announcement says only "a head with your key listens at this port of the sender", and is
// authenticated with the cluster key, so that devices of other clusters, and strangers, neither
// learn anything from it nor send workers astray. One that is recorded and sent again leads
// nowhere: who connects finds nobody who has the key.
//
//     bytes  0..3   "PRM1"
//            4..5   port, big endian
//            6..37  HMAC-SHA-512-256 of bytes 0..5
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "transport/cluster_key.h"
#include "transport/network.h"

namespace prima::transport {

// Whether devices may look for each other beyond this one: unless the environment says
// PRIMA_LAN=off, as tests do.
bool lan_is_wanted();

// Announces every second until destroyed. Fails with unavailable where there is no network.
Result<std::shared_ptr<void>> announce_on_lan(const Key& key, std::uint16_t port);

// Listens for announcements until destroyed.
class LanListener {
 public:
  static Result<std::unique_ptr<LanListener>> create(const Key& key);
  virtual ~LanListener() = default;

  // Heads heard of in the last seconds.
  virtual std::vector<Endpoint> heads() = 0;
};

}  // namespace prima::transport

// How a head and workers on one local network find each other: while a head gathers workers, it
// announces its port by UDP multicast, on every IPv4 network that the device is on.
//
// Announcements are signed with the cluster key: lan_announcement.h.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "transport/cluster_key.h"
#include "transport/network.h"

namespace prima::transport {

// Whether devices may look for each other beyond this one: unless the environment says
// PRIMA_LAN=off, as tests do.
bool lan_is_wanted();

// Whether the address is one at which this device takes part in a network.
bool is_this_device(const std::string& address);

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

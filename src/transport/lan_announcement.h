// What a head says to its local network: "a head with your key listens at this port of mine".
//
// Authenticated with the cluster key, so that devices of other clusters, and strangers, neither
// learn anything from it nor send workers astray. One that is recorded and sent again leads
// nowhere: who connects finds nobody who has the key.
//
//     bytes  0..3   "PRM1"
//            4..5   port, big endian
//            6..37  HMAC-SHA-512-256 of bytes 0..5
//
// Thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "transport/cluster_key.h"

namespace prima::transport {

inline constexpr std::size_t kLanAnnouncementBytes = 38;
using LanAnnouncement = std::array<unsigned char, kLanAnnouncementBytes>;

LanAnnouncement make_lan_announcement(const Key& key, std::uint16_t port);

// The head's port; nullopt if the bytes are no announcement made with this key.
std::optional<std::uint16_t> announced_port(const Key& key, std::span<const unsigned char> bytes);

}  // namespace prima::transport

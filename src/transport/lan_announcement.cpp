#include "transport/lan_announcement.h"

#include <algorithm>

#include <sodium.h>

namespace prima::transport {
namespace {

constexpr std::array<unsigned char, 4> kMagic{'P', 'R', 'M', '1'};
constexpr std::size_t kSignedBytes = kMagic.size() + 2;
static_assert(kLanAnnouncementBytes == kSignedBytes + crypto_auth_BYTES);
static_assert(crypto_auth_KEYBYTES == sizeof(Key));

}  // namespace

LanAnnouncement make_lan_announcement(const Key& key, std::uint16_t port) {
  LanAnnouncement announcement{};
  std::ranges::copy(kMagic, announcement.begin());
  announcement[4] = static_cast<unsigned char>(port >> 8);
  announcement[5] = static_cast<unsigned char>(port & 0xff);
  crypto_auth(announcement.data() + kSignedBytes, announcement.data(), kSignedBytes, key.data());
  return announcement;
}

std::optional<std::uint16_t> announced_port(const Key& key, std::span<const unsigned char> bytes) {
  if (bytes.size() != kLanAnnouncementBytes ||
      !std::equal(kMagic.begin(), kMagic.end(), bytes.begin()) ||
      crypto_auth_verify(bytes.data() + kSignedBytes, bytes.data(), kSignedBytes, key.data()) !=
          0) {
    return std::nullopt;
  }
  const auto port = static_cast<std::uint16_t>(bytes[4] << 8 | bytes[5]);
  return port == 0 ? std::nullopt : std::optional(port);
}

}  // namespace prima::transport

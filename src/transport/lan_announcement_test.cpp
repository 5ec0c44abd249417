#include "transport/lan_announcement.h"

#include <vector>

#include <gtest/gtest.h>

namespace prima::transport {
namespace {

Key key_of(unsigned char seed) {
  Key key;
  key.fill(seed);
  return key;
}

TEST(LanAnnouncement, NamesThePortToWhoHoldsTheKey) {
  const LanAnnouncement announcement = make_lan_announcement(key_of(1), 47123);
  EXPECT_EQ(announced_port(key_of(1), announcement), 47123);
  EXPECT_EQ(announced_port(key_of(2), announcement), std::nullopt);
  EXPECT_EQ(announced_port(key_of(1), make_lan_announcement(key_of(1), 0)), std::nullopt);
}

TEST(LanAnnouncement, IsRefusedWhenAnyBitOrItsLengthDiffers) {
  const LanAnnouncement announcement = make_lan_announcement(key_of(1), 47123);
  for (std::size_t bit = 0; bit < 8 * kLanAnnouncementBytes; ++bit) {
    LanAnnouncement changed = announcement;
    changed[bit / 8] = static_cast<unsigned char>(changed[bit / 8] ^ (1u << bit % 8));
    EXPECT_EQ(announced_port(key_of(1), changed), std::nullopt) << "bit " << bit;
  }
  for (std::size_t size = 0; size < kLanAnnouncementBytes; ++size) {
    EXPECT_EQ(announced_port(key_of(1), std::span(announcement).first(size)), std::nullopt);
  }
  std::vector<unsigned char> longer(announcement.begin(), announcement.end());
  longer.push_back(0);
  EXPECT_EQ(announced_port(key_of(1), longer), std::nullopt);
}

}  // namespace
}  // namespace prima::transport

// libFuzzer: whatever arrives by multicast, only an announcement that the key made names a port.
//
// The first byte chooses whether the rest is signed before it is read, so that both sides of the
// check are passed.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "transport/lan_announcement.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace prima::transport;
  if (size == 0) return 0;
  const bool sign = data[0] % 2 == 1;
  Key key;
  key.fill(data[0]);
  std::vector<unsigned char> bytes(data + 1, data + size);
  if (sign && bytes.size() == kLanAnnouncementBytes) {
    const auto port = static_cast<std::uint16_t>(bytes[4] << 8 | bytes[5]);
    const LanAnnouncement made = make_lan_announcement(key, port);
    std::copy(made.begin() + 6, made.end(), bytes.begin() + 6);  // the rest stays as it came
    const auto heard = announced_port(key, bytes);
    const bool intact = std::equal(made.begin(), made.end(), bytes.begin()) && port != 0;
    if (heard.has_value() != intact || (heard && *heard != port)) std::abort();
  } else if (announced_port(key, bytes)) {
    std::abort();  // 2^-256
  }
  // Codes are typed by people, and read from files.
  const std::string_view typed(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (const auto code = parse_code(typed); code && parse_code(format_code(*code)) != *code) {
    std::abort();
  }
  return 0;
}

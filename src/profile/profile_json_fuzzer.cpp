// Profiles as other devices send them: any text is read or refused, and what was read is written
// and read again the same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "profile/device_profile_json.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto profile = prima::profile::profile_from_json(text, "fuzzer");
  if (!profile) return 0;
  const std::string again = prima::profile::to_json(*profile);
  const auto same = prima::profile::profile_from_json(again, "fuzzer");
  if (!same || prima::profile::to_json(*same) != again) std::abort();
  return 0;
}

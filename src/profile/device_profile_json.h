// A device's profile as text: what `prima profile --json` prints, what the cache keeps and what
// workers send.
//
// Format, version 1: an object with "version" and the fields of DeviceProfile under their own
// names; times are arrays of seconds, one for each of "timed_tokens".
//
// Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "profile/device_profile.h"

namespace prima::profile {

std::string to_json(const DeviceProfile& profile);

// `name`: what errors call the text. Fails with corrupt or unsupported. Whether the figures can be
// is for the planner to check.
Result<DeviceProfile> profile_from_json(std::string_view text, std::string_view name);

}  // namespace prima::profile

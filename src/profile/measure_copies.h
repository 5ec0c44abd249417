// How fast hidden states go to a GPU and back.
//
// Thread-compatible.
#pragma once

#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "profile/device_profile.h"

namespace prima::profile {

// Fills the copy fields of `gpu`, whose name is as compute/gpu.h has it. `most_bytes`: of the
// largest step's hidden state. Fails with not_found or resource_exhausted.
Status measure_copies(GpuProfile& gpu, Bytes most_bytes, const Clock& clock);

}  // namespace prima::profile

// How weights are streamed: what tests, benchmarks and plans set.
//
// Value types; thread-compatible.
#pragma once

#include <chrono>
#include <optional>

#include "base/clock.h"
#include "base/units.h"
#include "weights/reader.h"

namespace prima::weights {

struct StreamerOptions {
  Bytes chunk = kMiB;  // of one read: large enough for full speed, small against the slot memory
  // How long acquire() waits while not a single read completes. Sleeping disks take ten seconds to
  // spin up; nothing healthy takes longer.
  Duration stall_limit = std::chrono::seconds(60);
};

struct StreamingOptions {
  ReaderOptions reader;
  StreamerOptions streamer;
  std::optional<Bytes> slot_bytes;  // by plan; else what suits one device
};

}  // namespace prima::weights

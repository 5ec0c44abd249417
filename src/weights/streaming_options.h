// How weights are streamed: what tests, benchmarks and plans set.
//
// Value types; thread-compatible.
#pragma once

#include <chrono>
#include <optional>
#include <vector>

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

// A device's part in a ring, as far as streaming needs to know it.
struct RingPart {
  std::vector<int> last_layers;  // of each window: after it other devices compute
  double share = 1;              // this device's of all weights
};

// Where streamed weights are in memory while they are used.
enum class StreamingPlace {
  automatic,  // in place if more slots are wanted than may be memory of the program's own
  slots,      // in buffers of the program's own, by direct reads
  in_place,   // where their file is mapped
};

struct StreamingOptions {
  ReaderOptions reader;
  StreamingPlace place = StreamingPlace::automatic;
  StreamerOptions streamer;
  // Of a part of a matrix where nothing is streamed for now, at most.
  Bytes largest_part_where_all_fit = 64 * kMiB;
  std::optional<Bytes> slot_bytes;  // by plan; else chosen for the disk and the ring
  RingPart ring;
};

}  // namespace prima::weights

// How fast the stages' own bytes come from their disk, measured by reading some of them as they
// will be streamed.
//
// Thread-compatible.
#pragma once

#include <span>

#include "base/clock.h"
#include "base/units.h"
#include "weights/reader.h"
#include "weights/slot_ring.h"

namespace prima::weights {

// Bytes per second; 0 where reading failed. Takes half a second, and as much memory
// as the reader's queue of chunks. REQUIRES: nothing is in flight in the reader.
double measure_read_speed(Reader& reader, std::span<const StageLayout> stages, Bytes chunk,
                          const Clock& clock);

}  // namespace prima::weights

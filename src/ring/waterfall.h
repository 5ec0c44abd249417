// Where a step spent its time, for people to look at.
//
//     step 12: 1 token, 61.3 ms
//       head     waiting   0.0  reading   0.0  computing  10.1  sending   0.1  |### o| laptop
//       waiting   0.3  reading  12.0  computing  20.4  sending   0.1  |    .rrr####       | phone
//       waiting   0.0  reading   0.0  computing  15.2  sending   0.0  |             ###   | output
//       layer   2.0   links   1.1
//
// The picture lays the hops one after the other: `.` waiting, `r` reading, `#` computing, `>`
// sending, `o` the output layer; the links' time is spread evenly between the hops, for no clock
// measures a single one. A step in parts has none: its parts overlap.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "ring/ring.h"

namespace prima::ring {

// `devices`: their names, in ring order.
std::string waterfall(std::uint64_t step_id, std::uint32_t n_tokens, const StepTimings& timings,
                      std::span<const std::string> devices);

}  // namespace prima::ring

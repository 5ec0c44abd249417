// A Reader that brings what is asked for into memory where its file is mapped, and leaves the
// requests' buffers alone: for weights that are computed with in place. Their pages are clean pages
// of a file, which the system can take back, so more of them may be in memory ahead of use than of
// slots' memory.
//
// Thread-compatible, as Reader.
#pragma once

#include <memory>
#include <vector>

#include "weights/mapped_file.h"
#include "weights/reader.h"

namespace prima::weights {

// Requests that are cut at multiples of this in their file are read in huge pages where the system
// makes them.
inline constexpr Bytes kInPlaceChunk = 2 * kMiB;

std::unique_ptr<Reader> open_in_place_reader(std::vector<std::shared_ptr<const MappedFile>> files,
                                             std::size_t queue_depth);

}  // namespace prima::weights

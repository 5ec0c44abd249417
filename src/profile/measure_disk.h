// How fast the model's own file is read, with the reader that streams weights.
//
// Thread-compatible.
#pragma once

#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "model/model_file.h"
#include "weights/streaming_options.h"

namespace prima::profile {

struct DiskSpeed {
  double bytes_per_second = 0;
  std::string reader;  // "io_uring, direct"
};

// Reads for `limit`, from the model's largest file, one chunk after the other as streaming does.
Result<DiskSpeed> measure_disk(const model::ModelFile& model,
                               const weights::StreamingOptions& options, Duration limit,
                               const Clock& clock);

}  // namespace prima::profile

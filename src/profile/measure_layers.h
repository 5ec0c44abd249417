// Times real layers of the model on one of this device's backends, with the kernels, weight layout
// and threads that generation uses.
//
// Thread-compatible; takes the whole processor while it runs.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "model/model_file.h"
#include "profile/device_profile.h"

namespace prima::profile {

// Layers of the model that are alike.
using LayerClass = std::vector<std::uint32_t>;

struct LayerMeasurement {
  std::string gpu;        // as compute/gpu.h names it; empty: the CPU
  bool budgeted = false;  // weights as within a memory budget (of the CPU)
  ggml_type kv_type = GGML_TYPE_F16;
  int n_threads = 0;               // 0: as generation chooses
  std::uint32_t max_tokens = 512;  // of a step, for compute buffers
  Bytes most_weight_bytes = 0;     // that may be in memory at once
};

// What a context adds to the time of one layer, for each of kTimedTokens.
struct ContextCost {
  std::uint32_t tokens = 0;  // of context
  TokenTimes added;
};

// By whether attention has a sliding window.
using ContextCosts = std::map<bool, ContextCost>;

// One LayerTimes for each class. Enough layers of each are loaded that none is still in the
// processor's caches when its turn comes again. A long context is measured where it costs least, at
// one class of each kind of attention, and what it adds is added to the others: attention does not
// depend on the weights. For the same reason costs `known` of this backend are not measured again.
// A class that took much longer for its size than others is measured once more. `limit`: how long
// all of it may take (and a quarter of it, where something is measured again); what is short is
// measured a few times whatever it says, the rest once at least.
struct TimedLayers {
  std::vector<LayerTimes> classes{};
  ContextCosts contexts{};
  Bytes compute_buffers = 0;  // that steps of so many tokens take
};
Result<TimedLayers> measure_layers(const model::ModelFile& model,
                                   const std::vector<LayerClass>& classes,
                                   const LayerMeasurement& measurement, const ContextCosts& known,
                                   Duration limit, const Clock& clock);

// The output layer, for each of kTimedTokens rows; the largest counts, where they would take too
// long, along the line through the two before.
struct TimedOutput {
  TokenTimes times;
  Bytes compute_buffers = 0;
};
Result<TimedOutput> measure_output_layer(const model::ModelFile& model,
                                         const LayerMeasurement& measurement, Duration limit,
                                         const Clock& clock);

}  // namespace prima::profile

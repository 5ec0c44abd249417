// This device's profile for one model: measured once, kept, and from then on read in no time; only
// the memory available is looked at anew.
//
// Devices that are processes of one computer measure one after the other: while one does, it holds
// a lock on the model's file.
//
// Thread-compatible.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "compute/executor.h"
#include "model/model_file.h"
#include "profile/device_profile.h"
#include "profile/measure_layers.h"
#include "profile/profile_cache.h"
#include "weights/budget.h"
#include "weights/streaming_options.h"

namespace prima::profile {

struct ProfileRequest {
  std::string device_name;
  std::vector<LayerClass> classes;  // all layers of the model, by class
  bool is_head = true;              // measures the output layer too
  ggml_type kv_type = GGML_TYPE_F16;
  std::uint32_t max_tokens = kProfiledStepTokens;
  int n_threads = 0;                                     // 0: as generation chooses
  std::optional<weights::MemoryBudget> memory;           // absent: what is available
  Bytes gpu_memory_limit = 0;                            // of each GPU; 0: what is free
  std::optional<std::uint32_t> offload_from_tokens = 0;  // DeviceProfile's
  weights::StreamingOptions streaming;
  bool fresh = false;                        // measure although there is a profile
  bool only_known = false;                   // fail with not_found instead of measuring
  Duration limit = std::chrono::seconds(9);  // for measuring; loading what is measured counts
};

// What is measured now, and how much is done, of 1. Returning false cancels.
using ProfileProgress = std::function<bool(const std::string& what, double share)>;

struct ProfileResult {
  DeviceProfile profile;
  bool measured = false;  // now; else it was known
};

// Fails with resource_exhausted where there is not even memory for a layer, cancelled, io.
Result<ProfileResult> profile_device(const model::ModelFile& model, const ProfileRequest& request,
                                     const ProfileCache& cache, const ProfileProgress& progress,
                                     const Clock& clock);

// To be called with all that the processor computes for this model. Now and then, and when the
// function and its copies are gone, what the cache knows of this device is corrected where
// generation has shown otherwise (ObservedGeneration). Empty where the cache knows nothing.
std::function<void(const compute::ComputedLayers&)> learn_from_generation(
    const model::ModelFile& model, const ProfileRequest& request, const ProfileCache& cache);

}  // namespace prima::profile

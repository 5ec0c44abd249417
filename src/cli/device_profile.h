// This device's profile, as `prima profile`, `prima run` and `prima join` ask for it.
#pragma once

#include <functional>
#include <string>

#include "base/result.h"
#include "compute/executor.h"
#include "model/model_file.h"
#include "plan/model_shape.h"
#include "profile/profile_device.h"

namespace prima::cli {

struct ProfileOptions {
  // What of this device may be used, and as what: its threads, memory, GPUs' memory, way of
  // streaming, kind of KV cache and whether it is a head count.
  compute::ExecutorOptions executor;
  std::string device_name{};  // empty: the host's name
  bool fresh = false;
  bool only_known = false;  // fail with not_found rather than measure
};

// The model as the planner sees it, with a KV cache of that type.
plan::ModelShape planned_shape(const model::ModelFile& model, ggml_type kv_type);

// From the cache, or measured with its progress on the terminal. `go_on`: asked now and then.
Result<profile::ProfileResult> profile_this_device(const model::ModelFile& model,
                                                   const ProfileOptions& options,
                                                   const std::function<bool()>& go_on = {});

// To be called with all that this device computes: profile::learn_from_generation. To be asked for
// when the profile is there, as a device's executor is made.
std::function<void(const compute::ComputedLayers&)> learn_from_generation(
    const model::ModelFile& model, const ProfileOptions& options);

// Where profiles are kept: the user's folder, or nowhere that lasts.
profile::ProfileCache profile_cache();

}  // namespace prima::cli

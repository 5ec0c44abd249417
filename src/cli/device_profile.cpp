#include "cli/device_profile.h"

#include <cstdio>
#include <filesystem>

#include "cli/progress_line.h"
#include "plan/model_shape_of.h"
#include "ring/ring.h"

namespace prima::cli {

plan::ModelShape planned_shape(const model::ModelFile& model, ggml_type kv_type) {
  return plan::shape_of(model, static_cast<double>(ggml_type_size(kv_type)) /
                                   static_cast<double>(ggml_blck_size(kv_type)));
}

profile::ProfileCache profile_cache() {
  auto folder = profile::default_cache_folder();
  return profile::ProfileCache(folder ? *folder
                                      : std::filesystem::temp_directory_path() / "prima-profiles");
}

namespace {

profile::ProfileRequest request_for(const model::ModelFile& model, const ProfileOptions& options) {
  const compute::ExecutorOptions& executor = options.executor;
  profile::ProfileRequest request;
  request.device_name = options.device_name.empty() ? ring::host_name() : options.device_name;
  request.classes = plan::layers_by_class(planned_shape(model, executor.kv_type));
  request.is_head = executor.is_head;
  request.kv_type = executor.kv_type;
  request.n_threads = executor.n_threads;
  request.memory = executor.memory;
  request.gpu_memory_limit = executor.gpu.memory_limit;
  request.offload_from_tokens = executor.offload_from_tokens;
  request.streaming = executor.streaming;
  request.fresh = options.fresh;
  request.only_known = options.only_known;
  return request;
}

}  // namespace

std::function<void(const compute::ComputedLayers&)> learn_from_generation(
    const model::ModelFile& model, const ProfileOptions& options) {
  return profile::learn_from_generation(model, request_for(model, options), profile_cache());
}

Result<profile::ProfileResult> profile_this_device(const model::ModelFile& model,
                                                   const ProfileOptions& options,
                                                   const std::function<bool()>& go_on) {
  const SystemClock clock;
  const profile::ProfileRequest request = request_for(model, options);
  ProgressLine line;
  return profile::profile_device(
      model, request, profile_cache(),
      [&](const std::string& what, double share) {
        char percent[32];
        std::snprintf(percent, sizeof percent, " (%.0f %%)", 100 * share);
        line.show("Measuring this device, once: " + what + percent);
        return !go_on || go_on();
      },
      clock);
}

}  // namespace prima::cli

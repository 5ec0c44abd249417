#include "profile/profile_device.h"

#include <algorithm>
#include <thread>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "compute/gpu.h"
#include "compute/threads.h"
#include "profile/hardware.h"
#include "profile/measure_copies.h"
#include "profile/measure_disk.h"
#include "profile/observed_generation.h"
#include "weights/budget.h"

namespace prima::profile {
namespace {

using model::TensorRole;

// Shares of the time for measuring.
constexpr double kDisk = 0.12;
constexpr double kLayers = 0.36;
constexpr double kBudgetedLayers = 0.28;
constexpr double kOutput = 0.14;
constexpr double kBudgetedOutput = 0.08;

// More than a second to count: a throttle's allowances come and go within tenths of one.
constexpr Duration kLongestOnDisk = std::chrono::milliseconds(1600);

// Each GPU's layers and output layer take this share again.
constexpr double kGpu = 0.15;

// Of a GPU's memory, left to the desktop and to buffers that the budget of layers does not count.
constexpr Bytes kVramReserve = 512 * kMiB;

// How often what generation shows is kept while it goes on.
constexpr Duration kKeepInterval = std::chrono::seconds(20);

// One measurer at a time on this computer. Where the file can't be locked, there is no order.
class MeasuringLock {
 public:
  static Result<MeasuringLock> take(const std::filesystem::path& path,
                                    const std::function<bool()>& go_on) {
    MeasuringLock lock(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    while (lock.descriptor_ >= 0 && ::flock(lock.descriptor_, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK && errno != EINTR) break;
      if (!go_on()) return fail(ErrorCode::cancelled, "Cancelled");
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return lock;
  }
  MeasuringLock(MeasuringLock&& other) noexcept
      : descriptor_(std::exchange(other.descriptor_, -1)) {}
  ~MeasuringLock() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

 private:
  explicit MeasuringLock(int descriptor) : descriptor_(descriptor) {}
  int descriptor_;
};

std::string tensor_text(const model::TensorInfo& tensor) {
  std::string text = ggml_type_name(tensor.type);
  for (const std::int64_t n : tensor.shape) text += " " + std::to_string(n);
  return text + "\n";
}

// Where somebody says how much memory there is, weights are always held within a budget.
bool is_budgeted(const ProfileRequest& request) {
  return request.memory && request.memory->was_asked;
}

// All that the figures depend on, and which there are.
std::string key_of(const model::ModelFile& model, const ProfileRequest& request, bool is_head,
                   bool budgeted_only) {
  const int n_threads = request.n_threads > 0 ? request.n_threads : compute::default_thread_count();
  std::string key = hardware_description(n_threads);
  struct stat status {};
  if (::stat(model.paths().front().c_str(), &status) == 0) {
    key += "disk " + std::to_string(status.st_dev) + "\n";
  }
  key +=
      std::string("kv ") + ggml_type_name(request.kv_type) + (is_head ? "\nhead\n" : "\nworker\n");
  if (budgeted_only) key += "within a budget\n";
  for (const compute::GpuInfo& gpu : compute::list_gpus()) {
    key += "gpu " + gpu.name + " " + gpu.description + "\n";
  }
  key += "architecture " + std::string(model.hyperparameters().architecture->name) + "\n";
  for (const LayerClass& layers : request.classes) {
    key += "class\n";
    for (const TensorRole role : model::all_tensor_roles()) {
      if (!model::is_per_layer(role)) continue;
      const auto* tensor = model.find(role, static_cast<int>(layers.front()));
      if (tensor != nullptr) key += tensor_text(*tensor);
    }
  }
  const auto* output = model.find(TensorRole::output);
  if (output == nullptr) output = model.find(TensorRole::token_embedding);
  if (output != nullptr) key += "output " + tensor_text(*output);
  return key;
}

struct Known {
  std::string key;
  DeviceProfile profile;
};

// A head's says all that a worker's does, and one that was taken without a budget all that one
// within a budget does. What was taken for just this comes first: it may have been taken anew.
std::optional<Known> find_in(const ProfileCache& cache, const model::ModelFile& model,
                             const ProfileRequest& request) {
  for (const bool is_head : {true, false}) {
    if (request.is_head && !is_head) continue;
    for (const bool budgeted_only : {true, false}) {
      if (budgeted_only && !is_budgeted(request)) continue;
      std::string key = key_of(model, request, is_head, budgeted_only);
      if (auto profile = cache.find(key)) return Known{std::move(key), std::move(*profile)};
    }
  }
  return std::nullopt;
}

// Keeps what it has learned now and then, and when it goes.
class Learner {
 public:
  Learner(Known known, const std::vector<LayerClass>& classes, ProfileCache cache)
      : key_(std::move(known.key)),
        known_(std::move(known.profile)),
        observed_(known_, classes),
        cache_(std::move(cache)) {}
  ~Learner() {
    if (keep()) log::info("generation took other times than this device's profile says: corrected");
  }
  Learner(const Learner&) = delete;
  Learner& operator=(const Learner&) = delete;

  void add(const compute::ComputedLayers& computed) {
    observed_.add(computed);
    if (computed.ended < keep_at_) return;
    if (keep_at_ != Instant{}) keep();
    keep_at_ = computed.ended + kKeepInterval;
  }

 private:
  // Whether there is something to correct.
  bool keep() {
    const auto corrected = observed_.corrected();
    if (!corrected && !is_kept_) return false;  // and nothing to take back
    is_kept_ = corrected.has_value();
    if (const Status stored = cache_.store(key_, corrected.value_or(known_)); !stored) {
      log::warn("The profile is not kept: {}", stored.error().message());
    }
    return is_kept_;
  }

  const std::string key_;
  const DeviceProfile known_;
  ObservedGeneration observed_;
  const ProfileCache cache_;
  bool is_kept_ = false;  // the cache says what was learned
  Instant keep_at_{};
};

class Measuring {
 public:
  Measuring(const model::ModelFile& model, const ProfileRequest& request, Bytes memory,
            const ProfileProgress& progress, const Clock& clock)
      : model_(model), request_(request), memory_(memory), progress_(progress), clock_(clock) {}

  Result<DeviceProfile> run() {
    end_ = clock_.now() + request_.limit;
    const auto gpus = compute::list_gpus();
    total_ = kDisk + kBudgetedLayers + (unbudgeted_ ? kLayers : 0) +
             static_cast<double>(gpus.size()) * kGpu +
             (request_.is_head ? kBudgetedOutput + (unbudgeted_ ? kOutput : 0) : 0);
    PRIMA_RETURN_IF_ERROR(measure_file());
    PRIMA_RETURN_IF_ERROR(measure_processor());
    for (const compute::GpuInfo& gpu : gpus) PRIMA_RETURN_IF_ERROR(measure_gpu(gpu));
    return std::move(profile_);
  }

 private:
  // The time for something that takes this share: what a slow disk took before is made up for.
  Result<Duration> begin(const std::string& what, double share) {
    if (progress_ && !progress_(what, done_ / total_)) {
      return fail(ErrorCode::cancelled, "Cancelled");
    }
    const double part = share / (total_ - done_);
    done_ += share;
    return share_of(std::max(end_ - clock_.now(), Duration{}), std::min(part, 1.0));
  }

  Status measure_file() {
    PRIMA_ASSIGN_OR_RETURN(const Duration limit, begin("disk", kDisk));
    PRIMA_ASSIGN_OR_RETURN(
        const DiskSpeed disk,
        measure_disk(model_, request_.streaming, std::min(limit, kLongestOnDisk), clock_));
    profile_.disk_read_bytes_per_second = disk.bytes_per_second;
    return {};
  }

  LayerMeasurement measurement(bool budgeted) const {
    return {.gpu = "",
            .budgeted = budgeted,
            .kv_type = request_.kv_type,
            .n_threads = request_.n_threads,
            .max_tokens = request_.max_tokens,
            .most_weight_bytes = memory_ / 2};
  }

  Status measure_processor() {
    TimedLayers layers;
    if (unbudgeted_) {
      PRIMA_ASSIGN_OR_RETURN(const Duration limit, begin("layers on the processor", kLayers));
      PRIMA_ASSIGN_OR_RETURN(
          layers, measure_layers(model_, request_.classes, measurement(false), {}, limit, clock_));
      profile_.cpu_layers = std::move(layers.classes);
    }
    PRIMA_ASSIGN_OR_RETURN(Duration limit, begin("layers within a memory budget", kBudgetedLayers));
    PRIMA_ASSIGN_OR_RETURN(layers, measure_layers(model_, request_.classes, measurement(true),
                                                  layers.contexts, limit, clock_));
    profile_.cpu_budgeted_layers = std::move(layers.classes);
    if (!unbudgeted_) profile_.cpu_layers = profile_.cpu_budgeted_layers;
    profile_.compute_buffer_bytes = layers.compute_buffers;
    if (!request_.is_head) return {};
    PRIMA_ASSIGN_OR_RETURN(limit, begin("output layer within a memory budget", kBudgetedOutput));
    PRIMA_ASSIGN_OR_RETURN(TimedOutput timed,
                           measure_output_layer(model_, measurement(true), limit, clock_));
    profile_.cpu_budgeted_output_seconds = timed.times;
    profile_.compute_buffer_bytes = std::max(profile_.compute_buffer_bytes, timed.compute_buffers);
    if (!unbudgeted_) {
      profile_.cpu_output_seconds = profile_.cpu_budgeted_output_seconds;
      return {};
    }
    PRIMA_ASSIGN_OR_RETURN(limit, begin("output layer", kOutput));
    const auto* output = model_.find(TensorRole::output);
    if (output == nullptr) output = model_.find(TensorRole::token_embedding);
    if (output != nullptr && output->bytes.size > memory_ / 2) {
      // It would have to be held twice while it is put into the processor's layout.
      profile_.cpu_output_seconds = profile_.cpu_budgeted_output_seconds;
      return {};
    }
    PRIMA_ASSIGN_OR_RETURN(timed, measure_output_layer(model_, measurement(false), limit, clock_));
    profile_.cpu_output_seconds = timed.times;
    return {};
  }

  // A GPU that can't compute this model, or has no memory for a layer of it, is left out.
  Status measure_gpu(const compute::GpuInfo& info) {
    PRIMA_ASSIGN_OR_RETURN(const Duration limit, begin("layers on " + info.name, kGpu));
    GpuProfile gpu;
    gpu.name = info.name;
    LayerMeasurement on_gpu = measurement(false);
    on_gpu.gpu = info.name;
    on_gpu.most_weight_bytes = info.memory_free / 2;
    auto layers = measure_layers(model_, request_.classes, on_gpu, {}, limit * 7 / 10, clock_);
    if (!layers) {
      log::warn("{} is not used: {}", info.name, layers.error().message());
      return {};
    }
    gpu.layers = std::move(layers->classes);
    if (request_.is_head) {
      const auto output = measure_output_layer(model_, on_gpu, limit * 2 / 10, clock_);
      if (output) gpu.output_seconds = output->times;
    }
    const Bytes hidden = model_.hyperparameters().n_embd * sizeof(float);
    PRIMA_RETURN_IF_ERROR(measure_copies(gpu, hidden * request_.max_tokens, clock_));
    profile_.gpus.push_back(std::move(gpu));
    profile_.unified_memory = profile_.unified_memory || info.unified_memory;
    return {};
  }

  const model::ModelFile& model_;
  const ProfileRequest& request_;
  const Bytes memory_;
  const ProfileProgress& progress_;
  const Clock& clock_;
  const bool unbudgeted_ = !is_budgeted(request_);
  Instant end_{};
  double total_ = 1;
  double done_ = 0;
  DeviceProfile profile_;
};

// What changes from moment to moment.
void fill_memory(DeviceProfile& profile, const ProfileRequest& request,
                 const weights::MemoryBudget& budget) {
  profile.name = request.device_name;
  // Who says how much memory a process may take has divided the computer by hand.
  profile.computer = budget.was_asked ? "" : computer_identity();
  profile.memory_available_bytes = budget.for_layers();
  profile.unbudgeted_up_to_bytes = compute::held_with_ease(budget);
  profile.memory_reserve_bytes = 0;  // the budget has left it out
  profile.offload_from_tokens = request.offload_from_tokens;
  for (const compute::GpuInfo& info : compute::list_gpus()) {
    for (GpuProfile& gpu : profile.gpus) {
      if (gpu.name != info.name) continue;
      gpu.vram_available_bytes = info.memory_free;
      gpu.vram_reserve_bytes = std::min(kVramReserve, info.memory_free);
      if (request.gpu_memory_limit > 0) {
        gpu.vram_available_bytes = std::min(info.memory_free, request.gpu_memory_limit);
        gpu.vram_reserve_bytes = 0;
      }
    }
  }
}

}  // namespace

Result<ProfileResult> profile_device(const model::ModelFile& model, const ProfileRequest& request,
                                     const ProfileCache& cache, const ProfileProgress& progress,
                                     const Clock& clock) {
  weights::MemoryBudget budget;
  if (request.memory) {
    budget = *request.memory;
  } else {
    PRIMA_ASSIGN_OR_RETURN(budget, weights::measure_budget({}));
  }
  ProfileResult result;
  const auto find_known = [&] {
    if (request.fresh) return false;
    auto known = find_in(cache, model, request);
    if (!known) return false;
    result.profile = std::move(known->profile);
    fill_memory(result.profile, request, budget);
    return true;
  };
  if (find_known()) return result;
  if (request.only_known) return fail(ErrorCode::not_found, "this device was not measured yet");
  PRIMA_ASSIGN_OR_RETURN(const MeasuringLock lock, MeasuringLock::take(model.paths().front(), [&] {
                           return !progress ||
                                  progress("waiting for another device of this computer", 0);
                         }));
  if (find_known()) return result;  // the one waited for has measured the same
  PRIMA_ASSIGN_OR_RETURN(result.profile,
                         Measuring(model, request, budget.for_layers(), progress, clock).run());
  result.measured = true;
  fill_memory(result.profile, request, budget);
  if (const Status stored = cache.store(
          key_of(model, request, request.is_head, is_budgeted(request)), result.profile);
      !stored) {
    log::warn("The profile is not kept: {}", stored.error().message());
  }
  return result;
}

std::function<void(const compute::ComputedLayers&)> learn_from_generation(
    const model::ModelFile& model, const ProfileRequest& request, const ProfileCache& cache) {
  auto known = find_in(cache, model, request);
  if (!known) return {};
  const auto learner = std::make_shared<Learner>(std::move(*known), request.classes, cache);
  return [learner](const compute::ComputedLayers& computed) { learner->add(computed); };
}

}  // namespace prima::profile

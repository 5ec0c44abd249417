// What a device and a link between two devices can do, as measured (or, in a cluster file, as
// described): the only figures the planner knows about hardware.
//
// Times are of one model's layers, by layer class (plan::ModelShape::classes), because decoding is
// bound by memory and prefill by arithmetic: neither is guessed from a rating.
//
// Value types; thread-compatible.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"

namespace prima::profile {

// Compute buffers are measured for steps of so many tokens, and grow with them.
inline constexpr std::uint32_t kProfiledStepTokens = 512;

// The token counts at which a layer is timed.
inline constexpr std::array<std::uint32_t, 6> kTimedTokens{1, 2, 4, 8, 32, 128};

// Seconds for a step of kTimedTokens[i] tokens. Never decreasing in i.
struct TokenTimes {
  std::array<double, kTimedTokens.size()> seconds{};
};

// Linear between the timed counts; beyond the last along the line through the last two, and never
// below the last.
// REQUIRES: tokens >= 1.
double seconds_for_tokens(const TokenTimes& times, double tokens);

// One layer of one class on one backend, at two fillings of the KV cache.
struct LayerTimes {
  TokenTimes short_context_seconds;  // short_context_tokens in the cache
  TokenTimes long_context_seconds;   // long_context_tokens in the cache
  std::uint32_t short_context_tokens = 0;
  std::uint32_t long_context_tokens = 0;  // equal to short_context_tokens: measured at one only
};

// Linear in the context between the two fillings and beyond; never below the short context's time.
double layer_seconds(const LayerTimes& times, double tokens, double context_tokens);

struct GpuProfile {
  std::string name;
  Bytes vram_available_bytes = 0;  // ignored with unified memory: DeviceProfile::memory counts
  Bytes vram_reserve_bytes = 0;    // left to others: the desktop, compute buffers
  std::vector<LayerTimes> layers;  // by layer class
  TokenTimes output_seconds;       // the output layer; all zero: it can't run here
  double copy_to_bytes_per_second = 0;
  double copy_from_bytes_per_second = 0;
  double copy_latency_seconds = 0;  // of each copy, either way
};

struct DeviceProfile {
  std::string name;
  // The same at processes that share a computer's memory (hardware.h); empty: not known to share.
  std::string computer{};
  Bytes memory_available_bytes = 0;  // free or reclaimable now, container limits counted
  Bytes memory_reserve_bytes = 0;    // of it, left to other programs
  double disk_read_bytes_per_second =
      0;  // queued direct reads of the model's file; 0: no streaming
  // Beside weights and KV cache, for steps of kProfiledStepTokens; 0: as the model's shape says.
  Bytes compute_buffer_bytes = 0;
  bool unified_memory = false;  // CPU and GPUs share memory_available_bytes
  // Steps of so many tokens may compute the processor's layers on a GPU; 0: from where that is
  // faster; nullopt: none may (compute::ExecutorOptions::offload_from_tokens).
  std::optional<std::uint32_t> offload_from_tokens = 0;
  std::vector<LayerTimes> cpu_layers;  // by layer class
  TokenTimes cpu_output_seconds;       // the output layer; all zero: not measured, as at workers
  // The same within a memory budget, where weights stay in the file's layout so that they can be
  // mapped and streamed: slower kernels. Empty, and all zero: as without a budget.
  std::vector<LayerTimes> cpu_budgeted_layers;
  // So much of weights and KV cache is held as without a budget; more of it so that the system can
  // take it back, with the slower kernels.
  Bytes unbudgeted_up_to_bytes = std::numeric_limits<Bytes>::max();
  TokenTimes cpu_budgeted_output_seconds;
  std::vector<GpuProfile> gpus;
};

// `planned`, as fast as `now` says: processor and disk. Its memory and its GPUs stay, for much of
// them may be taken by what was planned.
DeviceProfile with_speeds_of(const DeviceProfile& now, DeviceProfile planned);

// Between two devices, `first` and `second`.
struct LinkProfile {
  double round_trip_seconds = 0;         // of an empty message
  double forward_bytes_per_second = 0;   // first to second
  double backward_bytes_per_second = 0;  // second to first
  bool shared_medium = false;            // Wi-Fi: hops of all such links share the air
};

}  // namespace prima::profile

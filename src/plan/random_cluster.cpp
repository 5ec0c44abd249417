#include "plan/random_cluster.h"

#include <algorithm>
#include <cmath>

#include "plan/prompt_visits.h"

namespace prima::plan {
namespace {

using profile::DeviceProfile;
using profile::GpuProfile;
using profile::LayerTimes;
using profile::LinkProfile;
using profile::TokenTimes;

class Source {
 public:
  explicit Source(std::uint64_t seed) : engine_(seed) {}

  double uniform(double low, double high) {
    const double unit = static_cast<double>(engine_() >> 11) * 0x1p-53;
    return low + unit * (high - low);
  }
  double log_uniform(double low, double high) {
    return std::exp(uniform(std::log(low), std::log(high)));
  }
  std::uint32_t integer(std::uint32_t low, std::uint32_t high) {
    return low + static_cast<std::uint32_t>(engine_() % (high - low + 1));
  }
  bool chance(double probability) { return uniform(0, 1) < probability; }

 private:
  std::mt19937_64 engine_;
};

// Bound by memory for few tokens, by arithmetic for many.
TokenTimes token_times(double one_token, double per_token) {
  TokenTimes times;
  for (std::size_t i = 0; i < times.seconds.size(); ++i) {
    times.seconds[i] = std::max(one_token, per_token * profile::kTimedTokens[i]);
  }
  return times;
}

std::vector<LayerTimes> layer_times(Source& source, const ModelShape& shape, double bandwidth) {
  std::vector<LayerTimes> layers;
  const double arithmetic = source.uniform(0.02, 0.5);
  for (const LayerClass& layer : shape.classes) {
    const double seconds = expected_read_bytes(layer, 1) / bandwidth;
    LayerTimes& times = layers.emplace_back();
    times.short_context_seconds = token_times(seconds, arithmetic * seconds);
  }
  return layers;
}

ModelShape random_shape(Source& source) {
  ModelShape shape;
  shape.name = "random";
  shape.n_embd = 1024 * source.integer(1, 8);
  shape.piece_bytes = source.integer(4, 16) * 1'000'000;
  const std::uint32_t n_classes = source.integer(1, 2);
  const double base = source.uniform(20e6, 120e6);
  for (std::uint32_t c = 0; c < n_classes; ++c) {
    LayerClass& layer = shape.classes.emplace_back();
    layer.name = c == 0 ? "small" : "large";
    layer.dense_bytes = static_cast<Bytes>(base * (c == 0 ? 1.0 : source.uniform(1.0, 2.0)));
    if (source.chance(0.15)) {
      layer.n_expert = 8;
      layer.n_expert_used = source.integer(1, 4);
      layer.expert_bytes = layer.dense_bytes / 8;
      layer.dense_bytes /= 4;
    }
    layer.kv_bytes_per_token = source.integer(1, 8) * 1024;
    if (source.chance(0.2)) layer.window_tokens = 256;
  }
  const std::uint32_t n_layers = source.integer(1, 8);
  for (std::uint32_t i = 0; i < n_layers; ++i) {
    shape.layers.push_back(static_cast<std::uint16_t>(source.integer(0, n_classes - 1)));
  }
  shape.output_bytes = static_cast<Bytes>(source.uniform(1e6, 60e6));
  shape.output_parameters = shape.output_bytes * 2;
  shape.program_bytes = 1'000'000;
  return shape;
}

DeviceProfile random_device(Source& source, const ModelShape& shape, std::uint32_t index,
                            double sum_bytes) {
  DeviceProfile device;
  device.name = "device" + std::to_string(index);
  device.memory_available_bytes =
      static_cast<Bytes>(source.chance(0.3) ? source.uniform(0.02, 0.2) * sum_bytes
                                            : source.uniform(0.1, 1.3) * sum_bytes);
  device.memory_available_bytes = std::max<Bytes>(device.memory_available_bytes, 8'000'000);
  device.disk_read_bytes_per_second = source.chance(0.07) ? 0.0 : source.log_uniform(50e6, 4e9);
  device.unified_memory = source.chance(0.15);
  const double bandwidth = source.log_uniform(2e9, 40e9);
  device.cpu_layers = layer_times(source, shape, bandwidth);
  const double output = static_cast<double>(shape.output_bytes) / bandwidth;
  device.cpu_output_seconds = token_times(output, 0.1 * output);
  const std::uint32_t n_gpus = source.chance(0.35) ? (source.chance(0.2) ? 2 : 1) : 0;
  for (std::uint32_t g = 0; g < n_gpus; ++g) {
    GpuProfile& gpu = device.gpus.emplace_back();
    gpu.name = "gpu" + std::to_string(g);
    gpu.vram_available_bytes = static_cast<Bytes>(source.uniform(0.05, 1.0) * sum_bytes);
    const double speed = bandwidth * source.uniform(1.2, 12);
    gpu.layers = layer_times(source, shape, speed);
    if (source.chance(0.8)) {
      const double seconds = static_cast<double>(shape.output_bytes) / speed;
      gpu.output_seconds = token_times(seconds, 0.05 * seconds);
    }
    gpu.copy_to_bytes_per_second = gpu.copy_from_bytes_per_second = source.uniform(2e9, 12e9);
    gpu.copy_latency_seconds = source.uniform(5e-6, 50e-6);
  }
  return device;
}

// What decides whether prompts visit GPUs. Drawn apart, so that the rest stays as it was.
void add_visits(Source source, RandomCase& random) {
  random.shape.gpu_activation_bytes = source.integer(1, 8) * 1000;
  random.shape.gpu_scratch_bytes = source.integer(0, 10) * 1'000'000;
  random.shape.gpu_matrix_bytes = source.integer(0, 10) * 1'000'000;
  if (source.chance(0.3)) random.request.step_tokens = source.integer(32, 256);
  const bool long_prompt = source.chance(0.5);
  if (long_prompt) random.request.prompt_tokens = source.integer(256, 2048);
  for (DeviceProfile& device : random.cluster.devices) {
    if (source.chance(0.7)) device.unbudgeted_up_to_bytes = 0;
    if (source.chance(0.1)) device.offload_from_tokens.reset();
    for (GpuProfile& gpu : device.gpus) {
      if (long_prompt) gpu.vram_available_bytes /= 3;  // where it is plenty, nothing visits
      gpu.vram_available_bytes += gpu_buffer_bytes(random.shape, random.request);
    }
  }
}

}  // namespace

RandomCase random_case(std::uint64_t seed) {
  Source source(seed);
  RandomCase random;
  random.shape = random_shape(source);
  random.request.n_ctx = source.integer(128, 2048);
  random.request.objective = static_cast<Objective>(source.integer(0, 3));
  random.request.prompt_tokens = source.integer(16, 512);
  random.request.answer_tokens = source.integer(16, 256);
  random.request.sequences = source.integer(1, 8);
  random.request.slot_grid_bytes = random.shape.piece_bytes * source.integer(1, 2);
  const double sum = static_cast<double>(weight_bytes(random.shape) +
                                         kv_bytes(random.shape, random.request.n_ctx));
  const std::uint32_t n = source.integer(1, 3);
  for (std::uint32_t i = 0; i < n; ++i) {
    random.cluster.devices.push_back(random_device(source, random.shape, i, sum));
  }
  const bool wifi = source.chance(0.5);
  for (std::size_t i = 0; i < link_count(n); ++i) {
    LinkProfile& link = random.cluster.links.emplace_back();
    link.round_trip_seconds = source.log_uniform(1e-4, 1e-2);
    link.forward_bytes_per_second = source.log_uniform(5e6, 1e8);
    link.backward_bytes_per_second = source.log_uniform(5e6, 1e8);
    link.shared_medium = wifi;
  }
  add_visits(Source(~seed), random);
  return random;
}

}  // namespace prima::plan

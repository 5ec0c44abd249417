#include "plan/prompt_visits.h"

#include <algorithm>

#include "compute/gpu.h"
#include "compute/prompt_offload.h"

namespace prima::plan {
namespace {

// Tensors of a layer and its keys and values, each of which is a copy.
constexpr double kCopiesIn = 12;
constexpr double kCopiesOut = 2;

}  // namespace

std::size_t typical_class(const ModelShape& shape) {
  std::vector<std::size_t> counts(shape.classes.size(), 0);
  for (const std::uint16_t c : shape.layers) ++counts[c];
  return static_cast<std::size_t>(std::max_element(counts.begin(), counts.end()) - counts.begin());
}

Bytes gpu_buffer_bytes(const ModelShape& shape, const Request& request) {
  if (shape.gpu_activation_bytes == 0) return 0;
  return request.step_tokens *
             (shape.gpu_activation_bytes + request.n_ctx * compute::kGpuMaskBytes) +
         shape.gpu_scratch_bytes;
}

Bytes visit_room_bytes(const ModelShape& shape, const Request& request, std::uint32_t places) {
  Bytes weights = 0;
  Bytes cells = 0;
  for (const LayerClass& layer : shape.classes) {
    weights = std::max(weights, weight_bytes(layer));
    // Visitors' places are for the whole context, windows or not.
    cells = std::max(cells, layer.kv_bytes_per_token * request.n_ctx);
  }
  return places * (weights + cells) + gpu_buffer_bytes(shape, request) + shape.gpu_matrix_bytes;
}

VisitSeconds visit_seconds(const Visit& visit, const ModelShape& shape, std::size_t c,
                           double tokens, double context_tokens) {
  const LayerClass& layer = shape.classes[c];
  const auto weights = static_cast<double>(weight_bytes(layer));
  const auto kv_per_token = static_cast<double>(layer.kv_bytes_per_token);
  const profile::GpuProfile& gpu = visit.gpu;
  const double cells = context_tokens + tokens / 2;  // that attention reads, the step's among them
  const double hidden = tokens * shape.n_embd * sizeof(float);
  VisitSeconds seconds;
  seconds.in = kCopiesIn * gpu.copy_latency_seconds +
               (weights + kv_per_token * cells) / gpu.copy_to_bytes_per_second;
  if (!visit.budgeted) seconds.in += weights / visit.device.disk_read_bytes_per_second;
  seconds.computing = profile::layer_seconds(gpu.layers[c], tokens, context_tokens);
  seconds.out = kCopiesOut * gpu.copy_latency_seconds +
                kv_per_token * tokens / gpu.copy_from_bytes_per_second;
  seconds.hidden = 2 * gpu.copy_latency_seconds + hidden / gpu.copy_to_bytes_per_second +
                   hidden / gpu.copy_from_bytes_per_second;
  return seconds;
}

std::uint32_t visits_from_tokens(const Visit& visit, const ModelShape& shape,
                                 const Request& request) {
  if (!visit.device.offload_from_tokens || visit.device.unified_memory) return kNeverVisits;
  if (!visit.budgeted && visit.device.disk_read_bytes_per_second <= 0) return kNeverVisits;
  if (*visit.device.offload_from_tokens > 0) return *visit.device.offload_from_tokens;
  const std::uint32_t most = std::min(request.step_tokens, request.n_ctx);
  if (most < compute::kFewestOffloadedTokens) return kNeverVisits;
  const std::size_t c = typical_class(shape);
  const bool has_budgeted = visit.budgeted && !visit.device.cpu_budgeted_layers.empty();
  const profile::LayerTimes& processor =
      (has_budgeted ? visit.device.cpu_budgeted_layers : visit.device.cpu_layers)[c];
  const auto of_gpu = [&](double tokens) {
    const VisitSeconds seconds = visit_seconds(visit, shape, c, tokens, tokens / 2);
    return seconds.of_layer(1) + seconds.of_run(1);
  };
  compute::OffloadTimes times;
  times.few_tokens = compute::kFewestOffloadedTokens;
  times.many_tokens = std::min(compute::kManyTokens, most);
  times.processor_few = profile::layer_seconds(processor, times.few_tokens, 0);
  times.processor_many = profile::layer_seconds(processor, times.many_tokens, 0);
  times.gpu_few = of_gpu(times.few_tokens);
  times.gpu_many = of_gpu(times.many_tokens);
  return compute::faster_from_tokens(times, most).value_or(kNeverVisits);
}

}  // namespace prima::plan

#include "compute/prompt_offload.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "base/log.h"
#include "compute/gpu.h"

namespace prima::compute {
namespace {

// The first tokens of a sequence.
Step measured_step(std::uint32_t n_tokens) {
  Step step;
  for (std::uint32_t i = 0; i < n_tokens; ++i) {
    step.sequences.push_back(0);
    step.positions.push_back(static_cast<std::int32_t>(i));
    step.outputs.push_back(i);
  }
  return step;
}

}  // namespace

Bytes half_precision_bytes(const model::ModelFile& model, const std::vector<int>& layers) {
  Bytes most = 0;
  for (const int layer : layers) {
    for (const model::TensorRole role : model::all_tensor_roles()) {
      if (!model::is_per_layer(role)) continue;
      const model::TensorInfo* info = model.find(role, layer);
      if (info == nullptr) continue;
      most = std::max(most, 2 * static_cast<Bytes>(info->shape[0] * info->shape[1]));
    }
  }
  return most;
}

std::optional<std::uint32_t> faster_from_tokens(const OffloadTimes& times, std::uint32_t most) {
  const double few = times.processor_few - times.gpu_few;  // what the GPU saves
  const double many = times.processor_many - times.gpu_many;
  if (few > 0) return times.few_tokens;
  if (times.many_tokens <= times.few_tokens || many <= few) return std::nullopt;
  const double per_token = (many - few) / (times.many_tokens - times.few_tokens);
  const double tokens = times.few_tokens + std::floor(-few / per_token) + 1;
  if (tokens > most) return std::nullopt;
  return static_cast<std::uint32_t>(tokens);
}

Result<std::unique_ptr<PromptOffload>> PromptOffload::create(
    const model::ModelFile& model, LayerDevice& home, const ExecutorOptions& options,
    const GpuRoom& gpu, const std::function<Duration()>& waited) {
  const std::uint32_t most = std::min(options.max_tokens, options.n_ctx);
  const bool is_measured = *options.offload_from_tokens == 0;
  if (is_measured && most < kFewestOffloadedTokens) {
    return fail(ErrorCode::unavailable,
                "steps of " + std::to_string(most) + " tokens are too small for it");
  }
  std::unique_ptr<PromptOffload> offload(new PromptOffload(model, home));
  Status opened;
  for (std::size_t n_places = kMostPlaces; n_places > 0; --n_places) {
    opened = offload->open(options, gpu, n_places);
    if (opened || opened.error().code != ErrorCode::resource_exhausted) break;
  }
  PRIMA_RETURN_IF_ERROR(opened);
  offload->from_tokens_ = *options.offload_from_tokens;
  if (!is_measured) return offload;

  PRIMA_ASSIGN_OR_RETURN(const OffloadTimes times, offload->measure(waited));
  const auto from = faster_from_tokens(times, most);
  log::info(
      "a layer takes {:.1f} ms for {} tokens and {:.1f} ms for {}; on {}, copied there, {:.1f} and "
      "{:.1f} ms: {}",
      1e3 * times.processor_few, times.few_tokens, 1e3 * times.processor_many, times.many_tokens,
      gpu.name, 1e3 * times.gpu_few, 1e3 * times.gpu_many,
      from ? "prompts go there in steps of " + std::to_string(*from) + " tokens and more"
           : std::string("prompts stay"));
  if (!from) return fail(ErrorCode::unavailable, "the processor is faster");
  offload->from_tokens_ = *from;
  return offload;
}

Status PromptOffload::open(const ExecutorOptions& options, const GpuRoom& gpu,
                           std::size_t n_places) {
  const model::Hyperparameters& hp = model_.hyperparameters();
  ggml_backend_dev_t device = ggml_backend_dev_by_name(gpu.name.c_str());
  const std::vector<int> layers = layers_of(home_.options().layers);
  Bytes largest_layer = 0;
  for (const int layer : layers) {
    largest_layer = std::max(largest_layer, model_.layer_bytes(layer));
  }
  const Bytes kv_bytes = kv_bytes_per_layer(hp, options.kv_type, options.n_ctx);
  const Bytes needed = n_places * (largest_layer + kv_bytes) +
                       gpu_compute_buffer_bytes(hp, options) + half_precision_bytes(model_, layers);
  if (needed > gpu.memory) {
    return fail(ErrorCode::resource_exhausted, "its memory has " + format_bytes(gpu.memory) +
                                                   " left and " + format_bytes(needed) +
                                                   " are needed");
  }
  PRIMA_ASSIGN_OR_RETURN(auto kv_cache, KvCache::create(hp, home_.options().layers, options.kv_type,
                                                        options.n_ctx, device, n_places));
  PRIMA_ASSIGN_OR_RETURN(auto visitors,
                         VisitingLayers::create(model_, home_, *kv_cache, device, n_places,
                                                options.memory.has_value()));
  visitors_ = visitors.get();
  PRIMA_ASSIGN_OR_RETURN(gpu_, LayerDevice::create(hp,
                                                   {.device = device,
                                                    .layers = home_.options().layers,
                                                    .n_ctx = options.n_ctx,
                                                    .max_tokens = options.max_tokens,
                                                    .kv_type = options.kv_type},
                                                   std::move(visitors), std::move(kv_cache)));
  return {};
}

Status PromptOffload::run(LayerRange layers, const Step& step, const KvCells& cells,
                          std::vector<float>& hidden) {
  home_.rest();
  home_.keep_only(layers);
  visitors_->set_step(step);
  Status status = gpu_->run(layers, step, cells, hidden);
  if (!status) home_.release_kept();
  return status;
}

// One layer by both processors, from the layer's weights at home on. What home reads from disk both
// would wait for. The cells that are written belong to no sequence.
Result<OffloadTimes> PromptOffload::measure(const std::function<Duration()>& waited) {
  const LayerDeviceOptions& options = home_.options();
  const std::uint32_t most = std::min(options.max_tokens, options.n_ctx);
  const std::uint32_t first = options.layers.front().first;
  const LayerRange layer{first, first + 1};
  std::minstd_rand random(1);
  std::normal_distribution<float> normal;
  const auto seconds_of = [&](auto& processor, std::uint32_t n_tokens) -> Result<double> {
    Step step = measured_step(n_tokens);
    KvCells cells(options.n_ctx);
    PRIMA_RETURN_IF_ERROR(cells.place(step));
    PRIMA_RETURN_IF_ERROR(cells.apply(step));
    std::vector<float> hidden(std::size_t{n_tokens} * model_.hyperparameters().n_embd);
    for (float& value : hidden) value = normal(random);
    visitors_->forget();
    const Duration waited_before = waited();
    const Instant started = SystemClock().now();
    PRIMA_RETURN_IF_ERROR(processor.run(layer, step, cells, hidden));
    return seconds(SystemClock().now() - started - (waited() - waited_before));
  };
  OffloadTimes times{.few_tokens = kFewestOffloadedTokens,
                     .many_tokens = std::min(kManyTokens, most)};
  home_.keep_weights(true);
  const auto measure_all = [&]() -> Status {
    PRIMA_RETURN_IF_ERROR(seconds_of(home_, times.few_tokens));  // wakes threads, loads kernels
    PRIMA_ASSIGN_OR_RETURN(times.processor_few, seconds_of(home_, times.few_tokens));
    PRIMA_ASSIGN_OR_RETURN(times.processor_many, seconds_of(home_, times.many_tokens));
    PRIMA_RETURN_IF_ERROR(seconds_of(*this, times.few_tokens));
    PRIMA_RETURN_IF_ERROR(seconds_of(*this, times.many_tokens));
    PRIMA_ASSIGN_OR_RETURN(times.gpu_few, seconds_of(*this, times.few_tokens));
    PRIMA_ASSIGN_OR_RETURN(times.gpu_many, seconds_of(*this, times.many_tokens));
    return {};
  };
  const Status measured = measure_all();
  home_.keep_weights(false);
  home_.release_kept();
  PRIMA_RETURN_IF_ERROR(measured);
  return times;
}

}  // namespace prima::compute

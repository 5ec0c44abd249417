#include "compute/ggml_executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/log.h"
#include "compute/gpu.h"
#include "weights/budget.h"
#include "weights/resident_weights.h"

namespace prima::compute {
namespace {

// ggml's own messages are for its developers.
void log_as_debug(ggml_log_level, const char* text, void*) {
  std::string_view message(text);
  while (message.ends_with('\n')) message.remove_suffix(1);
  log::debug("ggml: {}", message);
}

std::string printed(LayerRange layers) {
  return "layers " + std::to_string(layers.first) + " to " + std::to_string(layers.last);
}

}  // namespace

std::vector<int> layers_of(const std::vector<LayerRange>& ranges) {
  std::vector<int> layers;
  for (const LayerRange& range : ranges) {
    for (std::uint32_t layer = range.first; layer < range.last; ++layer) {
      layers.push_back(static_cast<int>(layer));
    }
  }
  return layers;
}

Result<std::unique_ptr<Executor>> Executor::create(const model::ModelFile& model,
                                                   const ExecutorOptions& options,
                                                   const LoadProgress& progress) {
  return GgmlExecutor::create(model, options, progress);
}

std::uint32_t step_tokens_within(const weights::MemoryBudget& memory,
                                 const model::Hyperparameters& hp, std::uint32_t most) {
  constexpr Bytes kPart = 32;  // of the memory
  const Bytes widest =
      std::max<Bytes>(hp.n_ff, Bytes{hp.n_ff_expert} * std::max<Bytes>(1, hp.n_expert_used));
  // Gate, up and their product may share two places; hidden states and heads take six or so.
  const Bytes bytes_per_token = sizeof(float) * (2 * widest + 6 * Bytes{hp.n_embd});
  const Bytes fit = align_down(memory.total / kPart / bytes_per_token, kFewestStepTokens);
  return static_cast<std::uint32_t>(std::min<Bytes>(most, std::max<Bytes>(kFewestStepTokens, fit)));
}

Bytes held_with_ease(const weights::MemoryBudget& memory) {
  return memory.was_asked ? 0 : memory.for_layers() / 2;
}

GgmlExecutor::GgmlExecutor(const model::ModelFile& model, const ExecutorOptions& options)
    : model_(model),
      options_(options),
      cells_(0),
      device_of_layer_(model.hyperparameters().n_layer, nullptr) {}

Result<std::unique_ptr<GgmlExecutor>> GgmlExecutor::create(const model::ModelFile& model,
                                                           const ExecutorOptions& options,
                                                           const LoadProgress& progress) {
  ggml_log_set(log_as_debug, nullptr);
  std::unique_ptr<GgmlExecutor> executor(new GgmlExecutor(model, options));
  if (options.gpus.empty() && options.gpu.n_layers > 0) {
    PRIMA_ASSIGN_OR_RETURN(executor->options_.gpus,
                           place_on_gpus(model, options, options.gpu, list_gpus()));
  }
  PRIMA_RETURN_IF_ERROR(executor->check_windows());
  for (const GpuPlacement& placement : executor->options_.gpus) {
    PRIMA_RETURN_IF_ERROR(executor->add_gpu(placement, progress));
  }
  PRIMA_RETURN_IF_ERROR(executor->add_cpu(progress));
  // Not before: a context too large is refused by its KV cache's size, before anything is touched.
  executor->cells_ = KvCells(options.n_ctx);
  if (options.offload_from_tokens) executor->add_prompt_offload();
  return executor;
}

Status GgmlExecutor::check_windows() const {
  const std::uint32_t n_layer = model_.hyperparameters().n_layer;
  const auto check = [&](LayerRange layers) -> Status {
    if (layers.first < layers.last && layers.last <= n_layer) return {};
    return fail(ErrorCode::invalid_argument,
                printed(layers) + " of a model with " + std::to_string(n_layer) + " layers");
  };
  for (const LayerRange& window : options_.windows) PRIMA_RETURN_IF_ERROR(check(window));
  const std::vector<int> held = layers_of(options_.windows);
  for (const GpuPlacement& placement : options_.gpus) {
    for (const LayerRange& layers : placement.layers) {
      PRIMA_RETURN_IF_ERROR(check(layers));
      for (const int layer : layers_of({layers})) {
        if (std::find(held.begin(), held.end(), layer) != held.end()) continue;
        return fail(ErrorCode::invalid_argument, printed(layers) + " are for " + placement.device +
                                                     " but not in this device's windows");
      }
    }
  }
  if (options_.n_ctx == 0 || options_.max_tokens == 0) {
    return fail(ErrorCode::invalid_argument, "a context of no tokens");
  }
  return {};
}

Status GgmlExecutor::add(const LayerDeviceOptions& options,
                         std::unique_ptr<weights::Weights> weights) {
  PRIMA_ASSIGN_OR_RETURN(
      auto device, LayerDevice::create(model_.hyperparameters(), options, std::move(weights)));
  for (const int layer : layers_of(options.layers)) {
    device_of_layer_[static_cast<std::size_t>(layer)] = device.get();
  }
  if (options.output_layer) output_device_ = device.get();
  devices_.push_back(std::move(device));
  return {};
}

Status GgmlExecutor::add_gpu(const GpuPlacement& placement, const LoadProgress& progress) {
  ggml_backend_dev_t device = ggml_backend_dev_by_name(placement.device.c_str());
  if (device == nullptr) {
    std::string known;
    for (const GpuInfo& gpu : list_gpus()) known += (known.empty() ? "" : ", ") + gpu.name;
    return fail(ErrorCode::not_found, "there is no GPU '" + placement.device + "'",
                known.empty() ? "This build finds none" : "Those that this build finds: " + known);
  }
  weights::ResidentRequest request;
  request.layers = layers_of(placement.layers);
  request.output = placement.output_layer;
  request.buffer_type = ggml_backend_dev_buffer_type(device);
  PRIMA_ASSIGN_OR_RETURN(auto weights, weights::load_resident_weights(model_, request, progress));
  return add({.device = device,
              .layers = placement.layers,
              .output_layer = placement.output_layer,
              .n_ctx = options_.n_ctx,
              .max_tokens = options_.max_tokens,
              .kv_type = options_.kv_type},
             std::move(weights));
}

// What no GPU took.
Status GgmlExecutor::add_cpu(const LoadProgress& progress) {
  LayerDeviceOptions options{
      .device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU),
      .layers = {},
      .output_layer = options_.is_head && output_device_ == nullptr,
      .n_ctx = options_.n_ctx,
      .max_tokens = options_.max_tokens,
      .kv_type = options_.kv_type,
      .n_threads = options_.n_threads > 0 ? options_.n_threads : default_thread_count()};
  for (const LayerRange& window : options_.windows) {
    bool extends = false;
    for (std::uint32_t layer = window.first; layer < window.last; ++layer) {
      const bool on_cpu = device_of_layer_[layer] == nullptr;
      if (on_cpu && extends) ++options.layers.back().last;
      if (on_cpu && !extends) options.layers.push_back({layer, layer + 1});
      extends = on_cpu;
    }
  }
  if (options_.memory && !fits_with_ease(options)) return add_streamed(options, progress);
  weights::ResidentRequest request;
  request.layers = layers_of(options.layers);
  request.embedding = options_.is_head;
  request.output = options.output_layer;
  request.repack = options_.repack;
  PRIMA_ASSIGN_OR_RETURN(auto weights, weights::load_resident_weights(model_, request, progress));
  embedding_ = weights->find(model::TensorRole::token_embedding, -1);
  return add(options, std::move(weights));
}

bool GgmlExecutor::fits_with_ease(const LayerDeviceOptions& options) const {
  const model::Hyperparameters& hp = model_.hyperparameters();
  Bytes needed = options.output_layer ? output_layer_bytes() : 0;
  for (const int layer : layers_of(options.layers)) {
    needed += model_.layer_bytes(layer) + kv_bytes_per_layer(hp, options.kv_type, options.n_ctx);
  }
  return needed <= held_with_ease(*options_.memory);
}

// What the program, the KV cache and the compute buffers leave of the memory is for weights.
Status GgmlExecutor::add_streamed(const LayerDeviceOptions& options, const LoadProgress& progress) {
  weights::WeightLayout layout = weights::gguf_layout(model_, {.layers = layers_of(options.layers),
                                                               .embedding = options_.is_head,
                                                               .output = options.output_layer});
  if (!options_.store.root.empty()) layout = use_store(layout);
  weights::StreamingOptions streaming = options_.streaming;
  for (const LayerRange& window : options_.windows) {
    streaming.ring.last_layers.push_back(static_cast<int>(window.last) - 1);
  }
  streaming.ring.share = share_of_model();
  PRIMA_ASSIGN_OR_RETURN(auto weights, weights::StreamedWeights::open(layout, streaming));
  streamed_weights_ = weights.get();
  PRIMA_RETURN_IF_ERROR(add(options, std::move(weights)));
  const LayerDevice& device = *devices_.back();
  const weights::MemoryBudget& budget = *options_.memory;
  const Bytes others = budget.program + device.kv_cache_bytes() + device.compute_buffer_bytes();
  const Bytes enough = others + streamed_weights_->smallest_budget();
  // What the program takes is measured, and a little more or less the next time.
  constexpr Bytes kSlack = 2 * kMiB;
  if (budget.total < enough) {
    const Bytes surely = enough + (budget.program > 0 ? kSlack : 0);
    return fail(ErrorCode::resource_exhausted,
                format_bytes(budget.total) + " of memory are too little: program " +
                    format_bytes(budget.program) + ", KV cache " +
                    format_bytes(device.kv_cache_bytes()) + ", compute buffers " +
                    format_bytes(device.compute_buffer_bytes()) + ", weights at least " +
                    format_bytes(streamed_weights_->smallest_budget()),
                "At least " + format_bytes(surely) + " (" + std::to_string(surely) +
                    " bytes) are needed; a smaller context (-c) needs less");
  }
  PRIMA_RETURN_IF_ERROR(streamed_weights_->start(budget.total - others, progress));
  embedding_ = streamed_weights_->find(model::TensorRole::token_embedding, -1);
  const weights::WeightMemory memory = streamed_weights_->memory();
  log::info(
      "memory: {} = program {}, KV cache {}, compute buffers {}, weights {}, slots {}, unused {}; "
      "{} are read per token ({})",
      format_bytes(budget.total), format_bytes(budget.program),
      format_bytes(device.kv_cache_bytes()), format_bytes(device.compute_buffer_bytes()),
      format_bytes(memory.always + memory.resident), format_bytes(memory.slots),
      format_bytes(budget.total - others - memory.total()), format_bytes(memory.streamed),
      streamed_weights_->description());
  if (options_.yields_memory) yield_memory_to_others();
  return {};
}

// Without a store that can be used, weights come from the model's own files.
weights::WeightLayout GgmlExecutor::use_store(const weights::WeightLayout& layout) {
  weights::LayerStoreOptions options = options_.store;
  if (options.model_identity.empty()) options.model_identity = weights::file_identity(model_);
  auto store = weights::LayerStore::open(options);
  if (!store) {
    log::warn("{}", store.error().message());
    return layout;
  }
  weights::WeightLayout applied = store->apply(layout);
  if (!store->is_complete(layout)) {
    store_writer_ = std::make_unique<weights::StoreWriter>(
        std::move(*store), layout, options_.store_calm_time, options_.show_store);
  }
  return applied;
}

// What other layers of ours and the limit leave of a GPU's memory.
Bytes GgmlExecutor::gpu_memory_left(const GpuInfo& gpu) const {
  if (options_.gpu.memory_limit == 0) return gpu.memory_free;
  Bytes used = 0;
  for (const auto& device : devices_) {
    if (ggml_backend_dev_name(device->options().device) == gpu.name) used += device->memory_bytes();
  }
  const Bytes limit = options_.gpu.memory_limit;
  return std::min(gpu.memory_free, limit > used ? limit - used : 0);
}

// It is an advantage and never a need: where it can't be had, the processor computes all.
void GgmlExecutor::add_prompt_offload() {
  LayerDevice& home = *devices_.back();
  if (home.options().layers.empty()) return;
  std::vector<GpuRoom> gpus;
  for (const GpuInfo& gpu : list_gpus()) {
    // Of one memory for both, the budget has given away all there is.
    if (gpu.unified_memory) continue;
    Bytes memory = gpu_memory_left(gpu);
    if (options_.offload_room) {
      if (gpu.name != options_.offload_room->name) continue;
      memory = std::min(memory, options_.offload_room->memory);
    }
    gpus.push_back({.name = gpu.name, .memory = memory});
  }
  if (gpus.empty()) return;
  std::stable_sort(gpus.begin(), gpus.end(),
                   [](const GpuRoom& a, const GpuRoom& b) { return a.memory > b.memory; });
  auto offload = PromptOffload::create(model_, home, options_, gpus.front(),
                                       [this] { return weight_reads().waited; });
  if (offload) {
    prompt_offload_ = std::move(*offload);
  } else {
    log::info("prompts are not computed on {}: {}", gpus.front().name, offload.error().message());
  }
}

Bytes GgmlExecutor::output_layer_bytes() const {
  const model::TensorInfo* output = model_.find(model::TensorRole::output);
  if (output == nullptr) output = model_.find(model::TensorRole::token_embedding);
  return output->bytes.size;
}

// Of the bytes that a token uses.
double GgmlExecutor::share_of_model() const {
  const auto output_bytes = static_cast<double>(output_layer_bytes());
  double all = output_bytes;
  for (std::uint32_t layer = 0; layer < model_.hyperparameters().n_layer; ++layer) {
    all += static_cast<double>(model_.layer_bytes(static_cast<int>(layer)));
  }
  double held = options_.is_head ? output_bytes : 0;
  for (const int layer : layers_of(options_.windows)) {
    held += static_cast<double>(model_.layer_bytes(layer));
  }
  return held / all;
}

void GgmlExecutor::yield_memory_to_others() {
  const auto available = weights::available_memory();
  if (!available) return;  // a system that does not say has no say
  weights::StreamedWeights* weights = streamed_weights_;
  const Bytes wanted = weights->memory().resident;
  weights::ResidencyRules rules{.reserve = weights::default_reserve(available->total) / 2};
  // On a small device 64 MiB are much.
  rules.step = std::clamp(wanted / 16, 8 * kMiB, rules.step);
  good_neighbour_ = std::make_unique<weights::GoodNeighbour>(
      weights::system_memory_watch(), wanted, rules, [weights] { return weights->lost_bytes(); },
      [weights](Bytes resident) {
        const Status status = weights->set_resident(resident);
        if (!status) log::warn("{}", status.error().message());
      });
}

Status GgmlExecutor::embed(std::span<const std::int32_t> tokens, std::vector<float>& hidden) {
  const weights::StoreWriter::Work work(store_writer_.get());
  const model::Hyperparameters& hp = model_.hyperparameters();
  if (embedding_ == nullptr) return fail(ErrorCode::internal, "this device holds no embedding");
  hidden.resize(tokens.size() * hp.n_embd);

  const ggml_to_float_t to_float = ggml_get_type_traits(embedding_->type)->to_float;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || static_cast<std::uint32_t>(tokens[i]) >= hp.n_vocab) {
      return fail(ErrorCode::invalid_argument, "token " + std::to_string(tokens[i]) +
                                                   " is outside the vocabulary of " +
                                                   std::to_string(hp.n_vocab));
    }
    const char* row = static_cast<const char*>(embedding_->data) + embedding_->nb[1] * tokens[i];
    float* out = hidden.data() + i * hp.n_embd;
    if (embedding_->type == GGML_TYPE_F32) {
      std::memcpy(out, row, hp.n_embd * sizeof(float));
    } else {
      to_float(row, out, hp.n_embd);
    }
  }
  if (hp.architecture->scaled_embedding) {
    const float scale = std::sqrt(static_cast<float>(hp.n_embd));
    for (float& value : hidden) value *= scale;
  }
  return {};
}

Status GgmlExecutor::begin(const Step& step) {
  if (step.n_tokens() == 0 || step.n_tokens() > options_.max_tokens) {
    return fail(ErrorCode::invalid_argument,
                "a step of " + std::to_string(step.n_tokens()) + " tokens where 1 to " +
                    std::to_string(options_.max_tokens) + " were agreed");
  }
  return cells_.apply(step);
}

Status GgmlExecutor::check_held(LayerRange layers) const {
  for (std::uint32_t layer = layers.first; layer < layers.last; ++layer) {
    if (layer < device_of_layer_.size() && device_of_layer_[layer] != nullptr) continue;
    return fail(ErrorCode::invalid_argument, "this device does not hold " + printed(layers));
  }
  return {};
}

Status GgmlExecutor::run(LayerRange layers, const Step& step, std::vector<float>& hidden) {
  const weights::StoreWriter::Work work(store_writer_.get());
  PRIMA_RETURN_IF_ERROR(check_held(layers));
  const std::size_t n_embd = model_.hyperparameters().n_embd;
  if (hidden.size() != step.n_tokens() * n_embd) {
    return fail(ErrorCode::invalid_argument, "a hidden state of " + std::to_string(hidden.size()) +
                                                 " values where " +
                                                 std::to_string(step.n_tokens()) + " x " +
                                                 std::to_string(n_embd) + " are needed");
  }
  for (std::uint32_t first = layers.first; first < layers.last;) {
    LayerDevice& device = *device_of_layer_[first];
    std::uint32_t last = first + 1;
    while (last < layers.last && device_of_layer_[last] == &device) ++last;
    PRIMA_RETURN_IF_ERROR(run_on(device, {first, last}, step, hidden));
    first = last;
  }
  return {};
}

Status GgmlExecutor::run_on(LayerDevice& device, LayerRange layers, const Step& step,
                            std::vector<float>& hidden) {
  if (device.is_processor() && prompt_offload_ && prompt_offload_->takes(step.n_tokens())) {
    const Status status = prompt_offload_->run(layers, step, cells_, hidden);
    if (status || status.error().code != ErrorCode::resource_exhausted) return status;
    // The hidden state is as it was, and so the processor can do it.
    log::warn("prompts stay with the processor from now on: {}", status.error().message());
    prompt_offload_.reset();
  }
  if (!options_.on_computed || !device.is_processor()) {
    return device.run(layers, step, cells_, hidden);
  }
  const Instant started = SystemClock().now();
  const Duration read_before = weight_reads().waited;
  PRIMA_RETURN_IF_ERROR(device.run(layers, step, cells_, hidden));
  const WeightReads reads = weight_reads();
  const Duration reading = reads.waited - read_before;
  const Instant ended = SystemClock().now();
  options_.on_computed({.layers = layers,
                        .n_tokens = step.n_tokens(),
                        .context = static_cast<std::uint32_t>(step.positions.back()),
                        .in_budget = streamed_weights_ != nullptr,
                        .computing = ended - started - reading,
                        .ended = ended,
                        .reads = reads});
  return {};
}

void GgmlExecutor::keep_weights(bool keep) {
  for (const auto& device : devices_) device->keep_weights(keep);
}

void GgmlExecutor::set_idle_work(IdleWork* work) {
  if (streamed_weights_ != nullptr) streamed_weights_->set_idle_work(work);
}

WeightReads GgmlExecutor::weight_reads() const {
  if (streamed_weights_ == nullptr) return {};
  const weights::StreamerStatistics statistics = streamed_weights_->statistics();
  return {.waited = statistics.waited,
          .bytes = statistics.bytes_read,
          .busy = statistics.reading,
          .queue_full = statistics.queue_full,
          .others = streamed_weights_->fetched_bytes(),
          .direct = streamed_weights_->reads_directly()};
}

Status GgmlExecutor::check_output(std::span<const float> hidden) const {
  if (output_device_ == nullptr) {
    return fail(ErrorCode::internal, "this device holds no output layer");
  }
  if (hidden.size() % model_.hyperparameters().n_embd != 0) {
    return fail(ErrorCode::invalid_argument, "a hidden state that is not whole rows");
  }
  return {};
}

Status GgmlExecutor::logits(std::span<const float> hidden, std::vector<float>& logits) {
  const weights::StoreWriter::Work work(store_writer_.get());
  PRIMA_RETURN_IF_ERROR(check_output(hidden));
  return output_device_->logits(hidden, logits);
}

Status GgmlExecutor::embeddings(std::span<const float> hidden, std::vector<float>& embeddings) {
  const weights::StoreWriter::Work work(store_writer_.get());
  PRIMA_RETURN_IF_ERROR(check_output(hidden));
  return output_device_->embeddings(hidden, embeddings);
}

void GgmlExecutor::clear() {
  cells_.clear();
  for (const auto& device : devices_) device->release_kept();
}

void GgmlExecutor::rest() {
  for (const auto& device : devices_) device->rest();
}

ExecutorMemory GgmlExecutor::memory() const {
  ExecutorMemory memory;
  for (const auto& device : devices_) {
    const bool is_gpu =
        ggml_backend_dev_type(device->options().device) != GGML_BACKEND_DEVICE_TYPE_CPU;
    if (is_gpu) {
      memory.gpu += device->memory_bytes();
    } else {
      memory.weights += device->weight_bytes();
      memory.kv_cache += device->kv_cache_bytes();
      memory.compute_buffers += device->compute_buffer_bytes();
    }
  }
  if (prompt_offload_) memory.gpu += prompt_offload_->memory_bytes();
  if (options_.memory) {
    memory.budget = options_.memory->total;
    memory.program = options_.memory->program;
  }
  if (streamed_weights_ != nullptr) {
    const weights::WeightMemory weights = streamed_weights_->memory();
    memory.slots = weights.slots;
    memory.streamed = weights.streamed;
  }
  return memory;
}

}  // namespace prima::compute

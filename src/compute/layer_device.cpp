#include "compute/layer_device.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>

namespace prima::compute {
namespace {

// Enough for a prompt's, its remainder's and decoding's graphs of each window, at two contexts, and
// for the sizes that steps have with several users or drafts.
constexpr std::size_t kGraphsPerWindow = 16;

// Logits of a step come in rows of n_vocab floats; more at once would take memory for nothing.
constexpr std::uint32_t kMaxOutputsAtOnce = 64;
constexpr Bytes kMaxLogitsBytes = 4 * kMiB;

std::uint32_t max_outputs_at_once(const model::Hyperparameters& hp) {
  const Bytes rows = kMaxLogitsBytes / (Bytes{hp.n_vocab} * sizeof(float));
  return static_cast<std::uint32_t>(std::clamp<Bytes>(rows, 1, kMaxOutputsAtOnce));
}

// The shape under which the output layer's graphs are kept: no layers.
ForwardShape output_shape(std::uint32_t n_outputs, ForwardShape::Output kind) {
  ForwardShape shape;
  shape.n_outputs = n_outputs;
  shape.output = kind;
  return shape;
}

// A matrix in parts takes two nodes more for each further part.
std::size_t nodes_of_parts(const weights::Weights& weights, LayerRange layers) {
  std::size_t nodes = 2 * weights.parts(model::TensorRole::output, -1).size();
  for (const model::TensorRole role : model::all_tensor_roles()) {
    if (!model::is_per_layer(role)) continue;
    for (std::uint32_t layer = layers.first; layer < layers.last; ++layer) {
      nodes += 2 * weights.parts(role, static_cast<int>(layer)).size();
    }
  }
  return nodes;
}

std::size_t max_nodes(const model::Hyperparameters& hp, const weights::Weights& weights,
                      LayerRange layers) {
  return 64 + std::size_t{layers.size()} * (64 + 4 * std::size_t{hp.n_expert_used}) +
         nodes_of_parts(weights, layers);
}

void set_tensor(ggml_tensor* tensor, const void* data, std::size_t bytes) {
  if (tensor != nullptr) ggml_backend_tensor_set(tensor, data, 0, bytes);
}

Status no_memory_for_buffers(ggml_backend_dev_t device) {
  return fail(ErrorCode::resource_exhausted,
              std::string("no memory for compute buffers on ") + ggml_backend_dev_name(device),
              "Give a smaller context (-c) or fewer GPU layers");
}

bool takes_long(const ggml_tensor* node) {
  return node->op == GGML_OP_MUL_MAT || node->op == GGML_OP_MUL_MAT_ID ||
         node->op == GGML_OP_FLASH_ATTN_EXT;
}

}  // namespace

LayerDevice::LayerDevice(const model::Hyperparameters& hyperparameters,
                         const LayerDeviceOptions& options,
                         std::unique_ptr<weights::Weights> weights)
    : hyperparameters_(hyperparameters), options_(options), weights_(std::move(weights)) {}

Result<std::unique_ptr<LayerDevice>> LayerDevice::create(
    const model::Hyperparameters& hyperparameters, const LayerDeviceOptions& options,
    std::unique_ptr<weights::Weights> weights, std::unique_ptr<KvCache> kv_cache) {
  std::unique_ptr<LayerDevice> device(
      new LayerDevice(hyperparameters, options, std::move(weights)));
  device->backend_.reset(ggml_backend_dev_init(options.device, nullptr));
  if (!device->backend_) {
    return fail(ErrorCode::unavailable,
                std::string(ggml_backend_dev_name(options.device)) + " could not be opened",
                "Check its driver, or compute without it");
  }
  const bool is_cpu = ggml_backend_dev_type(options.device) == GGML_BACKEND_DEVICE_TYPE_CPU;
  if (is_cpu) device->threads_ = make_compute_threads(device->backend_.get(), options.n_threads);
  device->kv_cache_ = std::move(kv_cache);
  if (!device->kv_cache_) {
    PRIMA_ASSIGN_OR_RETURN(device->kv_cache_,
                           KvCache::create(hyperparameters, options.layers, options.kv_type,
                                           options.n_ctx, options.device));
  }
  device->allocator_.reset(ggml_gallocr_new(ggml_backend_dev_buffer_type(options.device)));
  PRIMA_RETURN_IF_ERROR(device->reserve());
  return device;
}

Status LayerDevice::run(LayerRange layers, const Step& step, const KvCells& cells,
                        std::vector<float>& hidden) {
  const bool has_last_layer = layers.last == hyperparameters_.n_layer;
  const auto n_outputs =
      has_last_layer ? static_cast<std::uint32_t>(step.outputs.size()) : step.n_tokens();
  PRIMA_ASSIGN_OR_RETURN(BuiltGraph * built, find_or_build({.layers = layers,
                                                            .n_tokens = step.n_tokens(),
                                                            .n_kv = step.n_kv,
                                                            .n_outputs = n_outputs}));
  set_inputs(*built, step, cells, hidden);
  keep_only(layers);
  PRIMA_RETURN_IF_ERROR(compute(*built));
  hidden.resize(std::size_t{n_outputs} * hyperparameters_.n_embd);
  if (built->output != nullptr) {
    ggml_backend_tensor_get(built->output, hidden.data(), 0, hidden.size() * sizeof(float));
  }
  return {};
}

Status LayerDevice::logits(std::span<const float> hidden, std::vector<float>& logits) {
  return compute_output(hidden, ForwardShape::Output::logits, hyperparameters_.n_vocab, logits);
}

Status LayerDevice::embeddings(std::span<const float> hidden, std::vector<float>& embeddings) {
  return compute_output(hidden, ForwardShape::Output::embeddings, hyperparameters_.n_embd,
                        embeddings);
}

Status LayerDevice::compute_output(std::span<const float> hidden, ForwardShape::Output kind,
                                   std::size_t width, std::vector<float>& result) {
  keep_only(LayerRange{});
  const std::size_t n_embd = hyperparameters_.n_embd;
  const auto n_outputs = static_cast<std::uint32_t>(hidden.size() / n_embd);
  result.resize(n_outputs * width);
  const std::uint32_t at_once = max_outputs_at_once(hyperparameters_);
  for (std::uint32_t first = 0; first < n_outputs; first += at_once) {
    const std::uint32_t n = std::min(at_once, n_outputs - first);
    PRIMA_ASSIGN_OR_RETURN(BuiltGraph * built, find_or_build(output_shape(n, kind)));
    set_tensor(built->inputs.hidden, hidden.data() + first * n_embd, n * n_embd * sizeof(float));
    PRIMA_RETURN_IF_ERROR(compute(*built));
    ggml_backend_tensor_get(built->output, result.data() + first * width, 0,
                            n * width * sizeof(float));
  }
  return {};
}

void LayerDevice::rest() {
  if (threads_) threads_->rest();
}

Bytes LayerDevice::compute_buffer_bytes() const {
  return ggml_gallocr_get_buffer_size(allocator_.get(), 0);
}

LayerDevice::BuiltGraph LayerDevice::build(const ForwardShape& shape) const {
  const std::size_t nodes = max_nodes(hyperparameters_, *weights_, shape.layers);
  BuiltGraph built;
  built.shape = shape;
  built.context.reset(ggml_init(
      {.mem_size = nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(nodes, false),
       .mem_buffer = nullptr,
       .no_alloc = true}));
  ggml_context* context = built.context.get();
  built.graph = ggml_new_graph_custom(context, nodes, false);
  const ForwardModel model{hyperparameters_, *weights_, *kv_cache_, options_.n_ctx};
  if (shape.layers.size() > 0) {
    built.output = build_layers(context, built.graph, model, shape, built.inputs);
  } else {
    built.output = build_output(context, built.graph, model, shape, built.inputs);
  }
  return built;
}

Result<LayerDevice::BuiltGraph*> LayerDevice::find_or_build(const ForwardShape& shape) {
  const auto found = std::find_if(graphs_.begin(), graphs_.end(),
                                  [&](const BuiltGraph& built) { return built.shape == shape; });
  if (found != graphs_.end()) {
    graphs_.splice(graphs_.begin(), graphs_, found);
    BuiltGraph& built = graphs_.front();
    if (built.cut_for != weights_->residency_version()) cut_into_pieces(built);
    return &built;
  }
  BuiltGraph built = build(shape);
  PRIMA_RETURN_IF_ERROR(allocate(built));
  cut_into_pieces(built);
  graphs_.push_front(std::move(built));
  const std::size_t most = kGraphsPerWindow * (options_.layers.size() + 1);
  while (graphs_.size() > most) graphs_.pop_back();
  return &graphs_.front();
}

// Should the shared buffer grow, tensors of older graphs would point to the one it replaces.
Status LayerDevice::allocate(BuiltGraph& built) {
  const std::size_t before = ggml_gallocr_get_buffer_size(allocator_.get(), 0);
  if (!ggml_gallocr_alloc_graph(allocator_.get(), built.graph)) {
    graphs_.clear();
    return no_memory_for_buffers(options_.device);
  }
  if (ggml_gallocr_get_buffer_size(allocator_.get(), 0) != before) graphs_.clear();
  return {};
}

Status LayerDevice::check_operations(const BuiltGraph& built) const {
  for (int i = 0; i < ggml_graph_n_nodes(built.graph); ++i) {
    const ggml_tensor* node = ggml_graph_node(built.graph, i);
    if (ggml_backend_supports_op(backend_.get(), node)) continue;
    const ggml_tensor* source = node->src[0];
    return fail(ErrorCode::unsupported,
                std::string(ggml_backend_dev_name(options_.device)) + " cannot compute " +
                    ggml_op_desc(node) + " with " +
                    (source != nullptr ? ggml_type_name(source->type) : "this type"),
                "Compute these layers on the processor (--gpu-layers 0)");
  }
  return {};
}

// Makes the shared buffer as large as any graph will need.
Status LayerDevice::reserve() {
  const std::uint32_t n_tokens = std::min(options_.max_tokens, options_.n_ctx);
  std::vector<ForwardShape> largest;
  for (const LayerRange& layers : options_.layers) {
    // Keeping all tokens through the last layer needs the most.
    largest.push_back(
        {.layers = layers, .n_tokens = n_tokens, .n_kv = options_.n_ctx, .n_outputs = n_tokens});
  }
  if (options_.output_layer) {
    largest.push_back(output_shape(std::min(max_outputs_at_once(hyperparameters_), n_tokens),
                                   ForwardShape::Output::logits));
  }
  for (const ForwardShape& shape : largest) {
    const BuiltGraph built = build(shape);
    PRIMA_RETURN_IF_ERROR(check_operations(built));
    if (!ggml_gallocr_reserve(allocator_.get(), built.graph)) {
      return no_memory_for_buffers(options_.device);
    }
  }
  return {};
}

// A new piece begins before the first use of each streamed stage, and before an operation that
// takes long while a streamed stage that is not needed any more is held: its slot could be read
// into meanwhile. Stages in memory cut nothing.
void LayerDevice::cut_into_pieces(BuiltGraph& built) const {
  built.cut_for = weights_->residency_version();
  built.pieces.clear();
  const int n_nodes = ggml_graph_n_nodes(built.graph);
  std::unordered_map<weights::StageIndex, int> last_use;
  const auto stages_of = [&](int node, auto&& visit) {
    for (const ggml_tensor* source : ggml_graph_node(built.graph, node)->src) {
      if (source == nullptr) continue;
      if (const auto stage = weights_->streamed_stage(source)) visit(*stage);
    }
  };
  for (int node = 0; node < n_nodes; ++node) {
    stages_of(node, [&](weights::StageIndex stage) { last_use[stage] = node; });
  }
  if (last_use.empty()) {
    built.pieces = {{.graph = built.graph, .acquire = {}, .release = {}}};
    return;
  }

  std::vector<weights::StageIndex> held;
  std::vector<std::pair<int, Piece>> pieces;  // with their first nodes
  pieces.push_back({0, {}});
  for (int node = 0; node < n_nodes; ++node) {
    std::vector<weights::StageIndex> wanted;
    stages_of(node, [&](weights::StageIndex stage) {
      if (std::find(held.begin(), held.end(), stage) == held.end()) wanted.push_back(stage);
    });
    const bool holds_needlessly =
        std::any_of(held.begin(), held.end(), [&](weights::StageIndex stage) {
          return last_use[stage] < node && weights_->is_streamed(stage);
        });
    const bool gives_up = holds_needlessly && takes_long(ggml_graph_node(built.graph, node));
    if (wanted.empty() && !gives_up) continue;
    const bool waits = std::any_of(wanted.begin(), wanted.end(), [&](weights::StageIndex stage) {
      return weights_->is_streamed(stage);
    });
    if ((waits || gives_up) && node > pieces.back().first) {
      auto& release = pieces.back().second.release;
      std::erase_if(held, [&](weights::StageIndex stage) {
        if (last_use[stage] >= node) return false;
        release.push_back(stage);
        return true;
      });
      pieces.push_back({node, {}});
    }
    for (const weights::StageIndex stage : wanted) {
      pieces.back().second.acquire.push_back(stage);
      held.push_back(stage);
    }
  }
  pieces.back().second.release = held;

  const auto end_of = [&](std::size_t i) {
    return i + 1 < pieces.size() ? pieces[i + 1].first : n_nodes;
  };
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    bytes += ggml_graph_overhead_custom(end_of(i) - pieces[i].first, false);
  }
  built.pieces_context.reset(
      ggml_init({.mem_size = bytes, .mem_buffer = nullptr, .no_alloc = true}));
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    auto& [first, piece] = pieces[i];
    piece.graph = ggml_new_graph_custom(built.pieces_context.get(), end_of(i) - first, false);
    for (int node = first; node < end_of(i); ++node) {
      ggml_graph_add_node(piece.graph, ggml_graph_node(built.graph, node));
    }
    built.pieces.push_back(std::move(piece));
  }
}

Status LayerDevice::compute(BuiltGraph& built) {
  std::vector<weights::StageIndex> held;
  const Status status = compute_pieces(built, held);
  for (const weights::StageIndex stage : held) weights_->release(stage);  // left after an error
  if (!status) release_kept();
  return status;
}

// What is kept gives way to what is needed now.
Status LayerDevice::acquire(weights::StageIndex stage) {
  Status acquired = weights_->acquire(stage);
  if (acquired || acquired.error().code != ErrorCode::resource_exhausted || kept_.empty()) {
    return acquired;
  }
  release_kept();
  keep_weights_ = false;  // slots are too few for all these layers
  return weights_->acquire(stage);
}

void LayerDevice::release(weights::StageIndex stage) {
  const auto kept = std::find(kept_.begin(), kept_.end(), stage);
  if (keep_weights_ && kept == kept_.end()) {
    kept_.push_back(stage);
    return;
  }
  weights_->release(stage);
  if (keep_weights_ || kept == kept_.end()) return;
  weights_->release(stage);
  kept_.erase(kept);
}

void LayerDevice::keep_only(LayerRange layers) {
  if (kept_layers_ != layers) release_kept();
  kept_layers_ = layers;
}

void LayerDevice::release_kept() {
  for (const weights::StageIndex stage : kept_) weights_->release(stage);
  kept_.clear();
}

Status LayerDevice::compute_pieces(const BuiltGraph& built,
                                   std::vector<weights::StageIndex>& held) {
  for (std::size_t i = 0; i < built.pieces.size(); ++i) {
    const Piece& piece = built.pieces[i];
    for (const weights::StageIndex stage : piece.acquire) {
      PRIMA_RETURN_IF_ERROR(acquire(stage));
      held.push_back(stage);
    }
    // A GPU computes while what it needs next is copied.
    const ggml_status status = ggml_backend_graph_compute_async(backend_.get(), piece.graph);
    if (status == GGML_STATUS_SUCCESS && i + 1 < built.pieces.size()) {
      for (const weights::StageIndex stage : built.pieces[i + 1].acquire) weights_->prefetch(stage);
    }
    ggml_backend_synchronize(backend_.get());
    if (status != GGML_STATUS_SUCCESS) {
      return fail(
          status == GGML_STATUS_ALLOC_FAILED ? ErrorCode::resource_exhausted : ErrorCode::internal,
          std::string("computing failed: ") + ggml_status_to_string(status));
    }
    for (const weights::StageIndex stage : piece.release) {
      release(stage);
      std::erase(held, stage);
    }
  }
  return {};
}

void LayerDevice::set_inputs(const BuiltGraph& built, const Step& step, const KvCells& cells,
                             std::span<const float> hidden) {
  const ForwardInputs& inputs = built.inputs;
  set_tensor(inputs.hidden, hidden.data(), hidden.size_bytes());
  set_tensor(inputs.positions, step.positions.data(), step.positions.size() * sizeof(std::int32_t));
  const std::vector<std::int64_t> rows(step.cells.begin(), step.cells.end());
  set_tensor(inputs.cells, rows.data(), rows.size() * sizeof(std::int64_t));
  set_tensor(inputs.outputs, step.outputs.data(), step.outputs.size() * sizeof(std::uint32_t));

  mask_.resize(std::size_t{step.n_kv} * step.n_tokens());
  const auto set_mask = [&](ggml_tensor* tensor, std::uint32_t window) {
    if (tensor == nullptr) return;
    cells.fill_mask(step, window, mask_);
    set_tensor(tensor, mask_.data(), mask_.size() * sizeof(std::uint16_t));
  };
  set_mask(inputs.mask, 0);
  set_mask(inputs.mask_windowed, hyperparameters_.n_swa);
}

}  // namespace prima::compute

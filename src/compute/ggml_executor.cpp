#include "compute/ggml_executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <unordered_map>

#include "base/log.h"
#include "weights/resident_weights.h"

namespace prima::compute {
namespace {

// Enough for a prompt's, its remainder's and decoding's graphs of each window, at two contexts.
constexpr std::size_t kGraphsPerWindow = 6;

// Logits of a step come in rows of n_vocab floats; more at once would take memory for nothing.
constexpr std::uint32_t kMaxOutputsAtOnce = 64;

// The shape under which the output layer's graphs are kept: no layers.
ForwardShape output_shape(std::uint32_t n_outputs) {
  ForwardShape shape;
  shape.n_outputs = n_outputs;
  return shape;
}

std::size_t max_nodes(const model::Hyperparameters& hp, std::uint32_t n_layers) {
  return 64 + std::size_t{n_layers} * (64 + 4 * std::size_t{hp.n_expert_used});
}

void set_tensor(ggml_tensor* tensor, const void* data, std::size_t bytes) {
  if (tensor != nullptr) ggml_backend_tensor_set(tensor, data, 0, bytes);
}

// ggml's own messages are for its developers.
void log_as_debug(ggml_log_level, const char* text, void*) {
  std::string_view message(text);
  while (message.ends_with('\n')) message.remove_suffix(1);
  log::debug("ggml: {}", message);
}

}  // namespace

Result<std::unique_ptr<Executor>> Executor::create(const model::ModelFile& model,
                                                   const ExecutorOptions& options,
                                                   const LoadProgress& progress) {
  return GgmlExecutor::create(model, options, progress);
}

GgmlExecutor::GgmlExecutor(const model::ModelFile& model, const ExecutorOptions& options)
    : model_(model), options_(options), cells_(options.n_ctx) {}

Result<std::unique_ptr<GgmlExecutor>> GgmlExecutor::create(const model::ModelFile& model,
                                                           const ExecutorOptions& options,
                                                           const LoadProgress& progress) {
  ggml_log_set(log_as_debug, nullptr);
  const model::Hyperparameters& hp = model.hyperparameters();
  for (const LayerRange& window : options.windows) {
    if (window.first >= window.last || window.last > hp.n_layer) {
      return fail(ErrorCode::invalid_argument,
                  "layers " + std::to_string(window.first) + " to " + std::to_string(window.last) +
                      " of a model with " + std::to_string(hp.n_layer) + " layers");
    }
  }
  if (options.n_ctx == 0 || options.max_tokens == 0) {
    return fail(ErrorCode::invalid_argument, "a context of no tokens");
  }

  std::unique_ptr<GgmlExecutor> executor(new GgmlExecutor(model, options));
  PRIMA_ASSIGN_OR_RETURN(executor->kv_cache_,
                         KvCache::create(hp, options.windows, options.kv_type, options.n_ctx));

  weights::ResidentRequest request;
  request.embedding_and_output = options.is_head;
  request.repack = options.repack;
  for (const LayerRange& window : options.windows) {
    for (std::uint32_t layer = window.first; layer < window.last; ++layer) {
      request.layers.push_back(static_cast<int>(layer));
    }
  }
  PRIMA_ASSIGN_OR_RETURN(executor->weights_,
                         weights::load_resident_weights(model, request, progress));

  executor->backend_.reset(ggml_backend_cpu_init());
  const int n_threads = options.n_threads > 0 ? options.n_threads : default_thread_count();
  executor->threads_ = make_compute_threads(executor->backend_.get(), n_threads);
  executor->allocator_.reset(ggml_gallocr_new(ggml_backend_cpu_buffer_type()));
  PRIMA_RETURN_IF_ERROR(executor->reserve());
  return executor;
}

ForwardModel GgmlExecutor::forward_model() const {
  return {model_.hyperparameters(), *weights_, *kv_cache_, options_.n_ctx};
}

Status GgmlExecutor::embed(std::span<const std::int32_t> tokens, std::vector<float>& hidden) {
  const model::Hyperparameters& hp = model_.hyperparameters();
  const ggml_tensor* table = weights_->find(model::TensorRole::token_embedding, -1);
  if (table == nullptr) return fail(ErrorCode::internal, "this device holds no embedding");
  hidden.resize(tokens.size() * hp.n_embd);

  const ggml_to_float_t to_float = ggml_get_type_traits(table->type)->to_float;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || static_cast<std::uint32_t>(tokens[i]) >= hp.n_vocab) {
      return fail(ErrorCode::invalid_argument, "token " + std::to_string(tokens[i]) +
                                                   " is outside the vocabulary of " +
                                                   std::to_string(hp.n_vocab));
    }
    const char* row = static_cast<const char*>(table->data) + table->nb[1] * tokens[i];
    float* out = hidden.data() + i * hp.n_embd;
    if (table->type == GGML_TYPE_F32) {
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

Status GgmlExecutor::check_window(LayerRange layers) const {
  for (const LayerRange& window : options_.windows) {
    if (layers.first >= window.first && layers.last <= window.last && layers.size() > 0) return {};
  }
  return fail(ErrorCode::invalid_argument, "this device does not hold layers " +
                                               std::to_string(layers.first) + " to " +
                                               std::to_string(layers.last));
}

Status GgmlExecutor::run(LayerRange layers, const Step& step, std::vector<float>& hidden) {
  PRIMA_RETURN_IF_ERROR(check_window(layers));
  const model::Hyperparameters& hp = model_.hyperparameters();
  if (hidden.size() != std::size_t{step.n_tokens()} * hp.n_embd) {
    return fail(ErrorCode::invalid_argument, "a hidden state of " + std::to_string(hidden.size()) +
                                                 " values where " +
                                                 std::to_string(step.n_tokens()) + " x " +
                                                 std::to_string(hp.n_embd) + " are needed");
  }
  const bool has_last_layer = layers.last == hp.n_layer;
  const auto n_outputs =
      has_last_layer ? static_cast<std::uint32_t>(step.outputs.size()) : step.n_tokens();
  PRIMA_ASSIGN_OR_RETURN(BuiltGraph * built, window_graph({.layers = layers,
                                                           .n_tokens = step.n_tokens(),
                                                           .n_kv = step.n_kv,
                                                           .n_outputs = n_outputs}));
  set_inputs(*built, step, hidden);
  PRIMA_RETURN_IF_ERROR(compute(*built));
  hidden.resize(std::size_t{n_outputs} * hp.n_embd);
  if (built->output != nullptr) {
    ggml_backend_tensor_get(built->output, hidden.data(), 0, hidden.size() * sizeof(float));
  }
  return {};
}

Status GgmlExecutor::logits(std::span<const float> hidden, std::vector<float>& logits) {
  const model::Hyperparameters& hp = model_.hyperparameters();
  if (weights_->find(model::TensorRole::output, -1) == nullptr) {
    return fail(ErrorCode::internal, "this device holds no output layer");
  }
  if (hidden.size() % hp.n_embd != 0) {
    return fail(ErrorCode::invalid_argument, "a hidden state that is not whole rows");
  }
  const auto n_outputs = static_cast<std::uint32_t>(hidden.size() / hp.n_embd);
  logits.resize(std::size_t{n_outputs} * hp.n_vocab);
  for (std::uint32_t first = 0; first < n_outputs; first += kMaxOutputsAtOnce) {
    const std::uint32_t n = std::min(kMaxOutputsAtOnce, n_outputs - first);
    PRIMA_ASSIGN_OR_RETURN(BuiltGraph * built, output_graph(n));
    set_tensor(built->inputs.hidden, hidden.data() + std::size_t{first} * hp.n_embd,
               std::size_t{n} * hp.n_embd * sizeof(float));
    PRIMA_RETURN_IF_ERROR(compute(*built));
    ggml_backend_tensor_get(built->output, logits.data() + std::size_t{first} * hp.n_vocab, 0,
                            std::size_t{n} * hp.n_vocab * sizeof(float));
  }
  return {};
}

void GgmlExecutor::clear() { cells_.clear(); }

void GgmlExecutor::rest() { threads_->rest(); }

ExecutorMemory GgmlExecutor::memory() const {
  return {.weights = weights_->memory_bytes(),
          .kv_cache = kv_cache_->size_bytes(),
          .compute_buffers = ggml_gallocr_get_buffer_size(allocator_.get(), 0)};
}

GgmlExecutor::BuiltGraph GgmlExecutor::new_graph(const ForwardShape& shape) const {
  const std::size_t nodes = max_nodes(model_.hyperparameters(), shape.layers.size());
  BuiltGraph built;
  built.shape = shape;
  built.context.reset(ggml_init(
      {.mem_size = nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(nodes, false),
       .mem_buffer = nullptr,
       .no_alloc = true}));
  built.graph = ggml_new_graph_custom(built.context.get(), nodes, false);
  return built;
}

void GgmlExecutor::build_window(BuiltGraph& built) const {
  built.output =
      build_layers(built.context.get(), built.graph, forward_model(), built.shape, built.inputs);
}

void GgmlExecutor::build_output_layer(BuiltGraph& built) const {
  built.inputs.hidden = ggml_new_tensor_2d(built.context.get(), GGML_TYPE_F32,
                                           model_.hyperparameters().n_embd, built.shape.n_outputs);
  ggml_set_input(built.inputs.hidden);
  built.output =
      build_output(built.context.get(), built.graph, forward_model(), built.inputs.hidden);
}

Result<GgmlExecutor::BuiltGraph*> GgmlExecutor::window_graph(const ForwardShape& shape) {
  const auto found = std::find_if(graphs_.begin(), graphs_.end(),
                                  [&](const BuiltGraph& built) { return built.shape == shape; });
  if (found != graphs_.end()) {
    graphs_.splice(graphs_.begin(), graphs_, found);
    return &graphs_.front();
  }
  BuiltGraph built = new_graph(shape);
  if (shape.layers.size() > 0) {
    build_window(built);
  } else {
    build_output_layer(built);
  }
  PRIMA_RETURN_IF_ERROR(allocate(built));
  cut_into_pieces(built);
  graphs_.push_front(std::move(built));
  const std::size_t most = kGraphsPerWindow * (options_.windows.size() + 1);
  while (graphs_.size() > most) graphs_.pop_back();
  return &graphs_.front();
}

Result<GgmlExecutor::BuiltGraph*> GgmlExecutor::output_graph(std::uint32_t n_outputs) {
  return window_graph(output_shape(n_outputs));
}

// All graphs share one buffer, since only one is computed at a time. Should it grow, tensors of
// older graphs point to the old one.
Status GgmlExecutor::allocate(BuiltGraph& built) {
  const std::size_t before = ggml_gallocr_get_buffer_size(allocator_.get(), 0);
  if (!ggml_gallocr_alloc_graph(allocator_.get(), built.graph)) {
    graphs_.clear();
    return fail(ErrorCode::resource_exhausted, "no memory for compute buffers",
                "Give a smaller context (-c)");
  }
  if (ggml_gallocr_get_buffer_size(allocator_.get(), 0) != before) graphs_.clear();
  return {};
}

// Makes the shared buffer as large as any graph will need.
Status GgmlExecutor::reserve() {
  const model::Hyperparameters& hp = model_.hyperparameters();
  const std::uint32_t n_tokens = std::min(options_.max_tokens, options_.n_ctx);
  const auto reserve_graph = [&](const BuiltGraph& built) -> Status {
    if (ggml_gallocr_reserve(allocator_.get(), built.graph)) return {};
    return fail(ErrorCode::resource_exhausted, "no memory for compute buffers",
                "Give a smaller context (-c)");
  };
  for (const LayerRange& window : options_.windows) {
    // Keeping all tokens through the last layer needs the most.
    BuiltGraph built = new_graph(
        {.layers = window, .n_tokens = n_tokens, .n_kv = options_.n_ctx, .n_outputs = n_tokens});
    build_window(built);
    PRIMA_RETURN_IF_ERROR(reserve_graph(built));
  }
  if (options_.is_head) {
    const std::uint32_t at_once = std::min({kMaxOutputsAtOnce, n_tokens, hp.n_vocab});
    BuiltGraph built = new_graph(output_shape(at_once));
    build_output_layer(built);
    PRIMA_RETURN_IF_ERROR(reserve_graph(built));
  }
  return {};
}

void GgmlExecutor::cut_into_pieces(BuiltGraph& built) const {
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
    if (wanted.empty()) continue;
    if (node > pieces.back().first) {
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
    const int last = end_of(i);
    piece.graph = ggml_new_graph_custom(built.pieces_context.get(), last - first, false);
    for (int node = first; node < last; ++node) {
      ggml_graph_add_node(piece.graph, ggml_graph_node(built.graph, node));
    }
    built.pieces.push_back(std::move(piece));
  }
}

Status GgmlExecutor::compute(BuiltGraph& built) {
  for (const Piece& piece : built.pieces) {
    for (const weights::StageIndex stage : piece.acquire) {
      PRIMA_RETURN_IF_ERROR(weights_->acquire(stage));
    }
    const ggml_status status = ggml_backend_graph_compute(backend_.get(), piece.graph);
    for (const weights::StageIndex stage : piece.release) weights_->release(stage);
    if (status != GGML_STATUS_SUCCESS) {
      return fail(
          status == GGML_STATUS_ALLOC_FAILED ? ErrorCode::resource_exhausted : ErrorCode::internal,
          std::string("computing failed: ") + ggml_status_to_string(status));
    }
  }
  return {};
}

void GgmlExecutor::set_inputs(const BuiltGraph& built, const Step& step,
                              std::span<const float> hidden) {
  const ForwardInputs& inputs = built.inputs;
  set_tensor(inputs.hidden, hidden.data(), hidden.size_bytes());
  set_tensor(inputs.positions, step.positions.data(), step.positions.size() * sizeof(std::int32_t));
  const std::vector<std::int64_t> cells(step.cells.begin(), step.cells.end());
  set_tensor(inputs.cells, cells.data(), cells.size() * sizeof(std::int64_t));
  set_tensor(inputs.outputs, step.outputs.data(), step.outputs.size() * sizeof(std::uint32_t));

  mask_.resize(std::size_t{step.n_kv} * step.n_tokens());
  const auto set_mask = [&](ggml_tensor* tensor, std::uint32_t window) {
    if (tensor == nullptr) return;
    cells_.fill_mask(step, window, mask_);
    set_tensor(tensor, mask_.data(), mask_.size() * sizeof(std::uint16_t));
  };
  set_mask(inputs.mask, 0);
  set_mask(inputs.mask_windowed, model_.hyperparameters().n_swa);
}

}  // namespace prima::compute

// Runs layers of a model on this device: hidden state in, hidden state out.
//
//     embed(tokens) -> hidden (n_embd, n_tokens)           at the head
//     begin(step)                                          once per step, on every device
//     run(layers, step, hidden)                            one window, in place
//     logits(hidden) -> (n_vocab, n_outputs)               at the head; or embeddings(hidden)
//
// The window that holds the model's last layer drops all tokens but the step's outputs, so what
// comes out of it is (n_embd, n_outputs).
//
// Graphs are built once per (window, tokens, n_kv, outputs) and reused while these stay.
//
// Thread-compatible: one call at a time. Blocks until the result is there.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <ggml.h>

#include "base/clock.h"
#include "base/idle_work.h"
#include "base/result.h"
#include "base/units.h"
#include "compute/step.h"
#include "model/model_file.h"
#include "weights/budget.h"
#include "weights/layer_store.h"
#include "weights/store_writer.h"
#include "weights/streaming_options.h"

namespace prima::compute {

// Consecutive layers, [first, last).
struct LayerRange {
  std::uint32_t first = 0;
  std::uint32_t last = 0;

  std::uint32_t size() const { return last - first; }
  friend bool operator==(const LayerRange&, const LayerRange&) = default;
};

// All of them, in the order given.
std::vector<int> layers_of(const std::vector<LayerRange>& ranges);

// Layers, and perhaps the output layer, that live in a GPU's memory and are computed there.
struct GpuPlacement {
  std::string device;                // as compute/gpu.h names it
  std::vector<LayerRange> layers{};  // within the device's windows
  bool output_layer = false;
};

// Memory of a GPU that layers of prompts may pass through.
struct GpuRoom {
  std::string name;  // as compute/gpu.h has it
  Bytes memory = 0;
};

struct GpuRequest {
  std::uint32_t n_layers = 0;  // of this device's; one more than it has: the output layer too
  Bytes memory_limit = 0;      // of each GPU; 0: what is free
};

// Weights read from disk since an executor was made.
struct WeightReads {
  Duration waited{};  // by run() and logits(), for `others` too
  Bytes bytes = 0;    // that have come
  Duration busy{};    // in which reads were in flight
  // Of it, with so many that the disk could not have done more; or as many as slots allow.
  Duration queue_full{};
  Bytes others = 0;     // read besides, to keep in memory what is to be there
  bool direct = false;  // past the system's file cache
};

// Layers that the processor has computed for a step. Waiting for their weights is not in the time.
struct ComputedLayers {
  LayerRange layers;
  std::uint32_t n_tokens = 0;
  std::uint32_t context = 0;  // the last token's position
  bool in_budget = false;     // with the kernels of weights that may be streamed
  Duration computing{};
  Instant ended{};
  WeightReads reads{};  // until then, ahead of their use too
};

struct ExecutorOptions {
  std::vector<LayerRange> windows;    // the layers this device holds; may be empty at a head
  bool is_head = true;                // holds the embedding and the output layer
  std::uint32_t n_ctx = 4096;         // KV cells
  std::uint32_t max_tokens = 512;     // of a step
  ggml_type kv_type = GGML_TYPE_F16;  // F16 or Q8_0
  int n_threads = 0;                  // 0: one per physical core
  bool repack = true;                 // weights in the processor's own layout, where ggml has one
  std::vector<GpuPlacement> gpus{};   // what they do not hold is the CPU's
  GpuRequest gpu{};                   // where `gpus` is empty: decided when windows are known
  // Steps of at least so many tokens compute the processor's layers on a GPU too, copying weights
  // over, where its memory has room for one or two layers more. 0: from where that is faster, which
  // is measured; nullopt: never.
  std::optional<std::uint32_t> offload_from_tokens{};
  // That room, at most; without it: what other layers leave of the GPU with the most left.
  std::optional<GpuRoom> offload_room{};
  // Memory for weights, KV cache and compute buffers of the CPU together, and for the program. What
  // of the weights does not fit is streamed from disk. Without it all is held in memory.
  std::optional<weights::MemoryBudget> memory{};
  weights::StreamingOptions streaming{};
  // A layer store to take weights from where it has them, and to be written while there is nothing
  // to compute; for weights within `memory`. Empty root: none. Empty model_identity: the file's
  // own.
  weights::LayerStoreOptions store{};
  // Longer than this device waits for the others within a request.
  Duration store_calm_time = std::chrono::seconds(30);
  weights::ShowStoreProgress show_store{};
  // Called from the thread that computes.
  std::function<void(const ComputedLayers&)> on_computed{};
  bool yields_memory = true;  // gives weights up while other programs need memory
};

// Fewer tokens at once make kernels slow.
inline constexpr std::uint32_t kFewestStepTokens = 32;

// Tokens of a step, at most `most`, whose compute buffers are a small part of the memory: where
// weights are streamed, every byte of buffers is a byte more to read for every token.
std::uint32_t step_tokens_within(const weights::MemoryBudget& memory,
                                 const model::Hyperparameters& hyperparameters, std::uint32_t most);

// How much of weights and KV cache is held as other programs hold theirs: in memory that the system
// cannot take back, in the processor's own layout. Only where nobody set a limit, and only a small
// part of what is available; more is kept so that the system can.
Bytes held_with_ease(const weights::MemoryBudget& memory);

struct ExecutorMemory {
  Bytes weights = 0;
  Bytes kv_cache = 0;
  Bytes compute_buffers = 0;
  Bytes gpu = 0;    // all three, in the GPUs' own memory; and what layers of prompts pass through
  Bytes slots = 0;  // part of weights: what streamed weights pass through
  Bytes streamed = 0;  // not memory: weights read from disk for every step
  Bytes budget = 0;    // all of the above but the GPUs', and the program; 0: no limit
  Bytes program = 0;   // set aside for the program in the budget
};

// Called while weights load, with bytes done and bytes in all; returning false cancels.
using LoadProgress = std::function<bool(Bytes, Bytes)>;

class Executor {
 public:
  // The model must outlive the executor. Fails with invalid_argument (layers or context that the
  // model has not), resource_exhausted, io, cancelled.
  static Result<std::unique_ptr<Executor>> create(const model::ModelFile& model,
                                                  const ExecutorOptions& options,
                                                  const LoadProgress& progress = {});
  virtual ~Executor() = default;

  // hidden becomes (n_embd, n_tokens). Fails with invalid_argument on a token out of range.
  virtual Status embed(std::span<const std::int32_t> tokens, std::vector<float>& hidden) = 0;

  // Applies the step's KV operations and places its tokens in the cache.
  virtual Status begin(const Step& step) = 0;

  // REQUIRES: begin(step) was called; `layers` lies in one of the windows; hidden is
  // (n_embd, n_tokens). Leaves (n_embd, n_tokens), or (n_embd, n_outputs) after the last layer.
  virtual Status run(LayerRange layers, const Step& step, std::vector<float>& hidden) = 0;

  // Whether another step passes the same layers as the next run() or logits() does, right after it:
  // weights that it reads from disk are kept for that one, as far as their slots hold them.
  virtual void keep_weights(bool /*keep*/) {}

  // What run() and logits() do while they wait for weights; null: nothing. It must outlive this, or
  // be taken away.
  virtual void set_idle_work(IdleWork* /*work*/) {}

  virtual WeightReads weight_reads() const { return {}; }

  // hidden: (n_embd, n_outputs). logits becomes (n_vocab, n_outputs).
  virtual Status logits(std::span<const float> hidden, std::vector<float>& logits) = 0;

  // hidden: (n_embd, n_outputs). embeddings becomes the same, normalized: what logits are made of.
  virtual Status embeddings(std::span<const float> hidden, std::vector<float>& embeddings) = 0;

  // Forgets all sequences.
  virtual void clear() = 0;

  // Nothing to compute for a while: threads stop spinning and sleep until the next call.
  virtual void rest() = 0;

  virtual ExecutorMemory memory() const = 0;
};

}  // namespace prima::compute

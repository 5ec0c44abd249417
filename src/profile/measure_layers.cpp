#include "profile/measure_layers.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>

#include <unistd.h>

#include "compute/executor.h"
#include "compute/kv_cells.h"

namespace prima::profile {
namespace {

// A time is the median of so many at most.
constexpr std::size_t kMostRepetitions = 12;

constexpr std::uint32_t kMostTokens = kTimedTokens.back();

// From this many tokens on a layer is bound by arithmetic: one layer, cached or not, tells.
constexpr std::uint32_t kBoundByArithmetic = 32;

// The longest context to measure at, and the least that shows above the noise.
constexpr std::uint32_t kMostContext = 1024;
constexpr std::uint32_t kLeastContext = 256;

// Compute buffers hardly depend on the context: a mask of two bytes per token and cell.
constexpr std::uint32_t kBufferContext = 4096;

// Of the limit, for filling the cache: it is computed, as its contents decide which memory is read.
constexpr double kShareOfFilling = 0.25;

// Several times the last-level cache, but not so much that loading takes long.
Bytes beyond_caches() {
  long cache = -1;
#ifdef _SC_LEVEL3_CACHE_SIZE
  cache = ::sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
  constexpr Bytes kLeast = 64 * kMiB;
  constexpr Bytes kMost = 192 * kMiB;
  return cache > 0 ? std::clamp(3 * static_cast<Bytes>(cache), kLeast, kMost) : kMost;
}

// Layers of one class, loaded.
struct LoadedLayers {
  std::unique_ptr<compute::Executor> executor;
  std::vector<compute::LayerRange> windows;
  std::uint32_t n_layers = 0;
};

compute::ExecutorOptions executor_options(const LayerMeasurement& measurement) {
  compute::ExecutorOptions options;
  options.is_head = false;
  options.n_ctx = kBufferContext;
  options.max_tokens = std::max(kMostTokens, measurement.max_tokens);
  options.kv_type = measurement.kv_type;
  options.n_threads = measurement.n_threads;
  options.yields_memory = false;
  // More than anything takes: all is resident, in the layout of what may be streamed.
  if (measurement.budgeted) options.memory = weights::MemoryBudget{.total = Bytes{1} << 50};
  return options;
}

Result<LoadedLayers> load(const model::ModelFile& model, const LayerClass& layers,
                          const LayerMeasurement& measurement) {
  const Bytes enough = std::min(beyond_caches(), measurement.most_weight_bytes);
  LoadedLayers loaded;
  Bytes bytes = 0;
  for (const std::uint32_t layer : layers) {
    if (bytes > 0 && bytes >= enough) break;
    bytes += model.layer_bytes(static_cast<int>(layer));
    ++loaded.n_layers;
    if (!loaded.windows.empty() && loaded.windows.back().last == layer) {
      ++loaded.windows.back().last;
    } else {
      loaded.windows.push_back({layer, layer + 1});
    }
  }
  compute::ExecutorOptions options = executor_options(measurement);
  options.windows = loaded.windows;
  if (!measurement.gpu.empty()) options.gpus = {{measurement.gpu, loaded.windows, false}};
  PRIMA_ASSIGN_OR_RETURN(loaded.executor, compute::Executor::create(model, options));
  return loaded;
}

compute::Step tokens_from(std::uint32_t first, std::uint32_t n) {
  compute::Step step;
  for (std::uint32_t i = 0; i < n; ++i) {
    step.sequences.push_back(0);
    step.positions.push_back(static_cast<std::int32_t>(first + i));
    step.outputs.push_back(i);
  }
  return step;
}

// One sequence whose last tokens are added and taken away again and again.
class TimedSequence {
 public:
  TimedSequence(LoadedLayers& loaded, std::uint32_t n_embd, const Clock& clock)
      : loaded_(loaded), clock_(clock), cells_(kMostContext + kMostTokens), n_embd_(n_embd) {}

  std::uint32_t length() const { return length_; }
  void keep(std::uint32_t n) { length_ += n; }

  // Seconds per layer of n tokens after those that stay; on one layer, or on all that are loaded.
  Result<double> add(std::uint32_t n, bool one_layer) {
    compute::Step step = tokens_from(length_, n);
    step.kv_operations = {{.kind = compute::KvOperation::Kind::remove,
                           .sequence = 0,
                           .target = 0,
                           .from = static_cast<std::int32_t>(length_),
                           .to = static_cast<std::int32_t>(cells_.size())}};
    PRIMA_RETURN_IF_ERROR(cells_.place(step));
    PRIMA_RETURN_IF_ERROR(cells_.apply(step));
    const Instant start = clock_.now();
    PRIMA_RETURN_IF_ERROR(loaded_.executor->begin(step));
    for (const compute::LayerRange& window : loaded_.windows) {
      hidden_.assign(std::size_t{n} * n_embd_, 0.25f);
      const compute::LayerRange layers{window.first, one_layer ? window.first + 1 : window.last};
      PRIMA_RETURN_IF_ERROR(loaded_.executor->run(layers, step, hidden_));
      if (one_layer) break;
    }
    return seconds(clock_.now() - start) / (one_layer ? 1 : loaded_.n_layers);
  }

 private:
  LoadedLayers& loaded_;
  const Clock& clock_;
  compute::KvCells cells_;
  std::vector<float> hidden_;
  std::uint32_t n_embd_;
  std::uint32_t length_ = 0;
};

// The median of `run`'s times, repeated within `budget`: what generation will see, on a machine
// that wavers too. The first builds the graph and wakes the threads: it counts only where there is
// no time for another.
template <typename Run>
Result<double> typical_seconds(Duration budget, const Clock& clock, Run&& run) {
  const Instant end = clock.now() + budget;
  PRIMA_ASSIGN_OR_RETURN(const double first, run());
  std::vector<double> times;
  double expected = first;
  while (times.size() < kMostRepetitions &&
         clock.now() +
                 std::chrono::duration_cast<Duration>(std::chrono::duration<double>(expected)) <=
             end) {
    PRIMA_ASSIGN_OR_RETURN(expected, run());
    times.push_back(expected);
  }
  if (times.empty()) return first;
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>((times.size() - 1) / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

// More tokens cannot take less time; where noise says so, the earlier time is the better guess.
void make_monotone(TokenTimes& times) {
  for (std::size_t i = 1; i < times.seconds.size(); ++i) {
    times.seconds[i] = std::max(times.seconds[i], times.seconds[i - 1]);
  }
}

Result<TokenTimes> time_tokens(TimedSequence& sequence, bool one_layer, Duration budget,
                               const Clock& clock) {
  TokenTimes times;
  for (std::size_t i = 0; i < kTimedTokens.size(); ++i) {
    const bool one = one_layer || kTimedTokens[i] >= kBoundByArithmetic;
    PRIMA_ASSIGN_OR_RETURN(times.seconds[i],
                           typical_seconds(budget / kTimedTokens.size(), clock,
                                           [&] { return sequence.add(kTimedTokens[i], one); }));
  }
  make_monotone(times);
  return times;
}

// What a long context adds to each of kTimedTokens, on one layer.
struct ContextCost {
  std::uint32_t tokens = 0;
  TokenTimes added;
};

Result<ContextCost> measure_context(TimedSequence& sequence, const model::ModelFile& model,
                                    double seconds_of_most, Duration limit, const Clock& clock) {
  const auto budget = limit / 4;
  PRIMA_ASSIGN_OR_RETURN(const TokenTimes empty, time_tokens(sequence, true, budget, clock));
  const double steps = kShareOfFilling * seconds(limit) / std::max(seconds_of_most, 1e-9);
  std::uint32_t length = static_cast<std::uint32_t>(
      std::clamp(steps * kMostTokens, double{kLeastContext}, double{kMostContext}));
  length = length / kMostTokens * kMostTokens;
  const std::uint32_t n_ctx_train = model.hyperparameters().n_ctx_train;
  if (n_ctx_train <= kMostTokens) return ContextCost{};
  length = std::min(length, n_ctx_train - kMostTokens);
  while (sequence.length() < length) {
    const std::uint32_t n = std::min(kMostTokens, length - sequence.length());
    PRIMA_RETURN_IF_ERROR(sequence.add(n, true));
    sequence.keep(n);
  }
  PRIMA_ASSIGN_OR_RETURN(const TokenTimes full, time_tokens(sequence, true, budget, clock));
  ContextCost cost{length, {}};
  for (std::size_t i = 0; i < kTimedTokens.size(); ++i) {
    cost.added.seconds[i] = std::max(0.0, full.seconds[i] - empty.seconds[i]);
  }
  make_monotone(cost.added);
  return cost;
}

void add_context(LayerTimes& times, const ContextCost& cost) {
  times.long_context_tokens = cost.tokens;
  for (std::size_t i = 0; i < kTimedTokens.size(); ++i) {
    times.long_context_seconds.seconds[i] =
        times.short_context_seconds.seconds[i] + cost.added.seconds[i];
  }
}

}  // namespace

Result<TimedLayers> measure_layers(const model::ModelFile& model,
                                   const std::vector<LayerClass>& classes,
                                   const LayerMeasurement& measurement, Duration limit,
                                   const Clock& clock) {
  const auto is_windowed = [&](const LayerClass& layers) {
    return model.hyperparameters().has_sliding_window(layers.front());
  };
  std::size_t n_contexts = 0;
  for (const bool windowed : {false, true}) {
    n_contexts += std::any_of(classes.begin(), classes.end(), [&](const LayerClass& layers) {
      return is_windowed(layers) == windowed;
    });
  }
  // A context takes about as long as a class.
  const Duration share = limit / (classes.size() + n_contexts);
  std::map<bool, ContextCost> contexts;
  TimedLayers result;
  for (const LayerClass& layers : classes) {
    const Instant end = clock.now() + share;
    PRIMA_ASSIGN_OR_RETURN(LoadedLayers loaded, load(model, layers, measurement));
    TimedSequence sequence(loaded, model.hyperparameters().n_embd, clock);
    LayerTimes times;
    const Duration left = std::max(end - clock.now(), share / 2);
    PRIMA_ASSIGN_OR_RETURN(times.short_context_seconds, time_tokens(sequence, false, left, clock));
    if (!contexts.contains(is_windowed(layers))) {
      PRIMA_ASSIGN_OR_RETURN(
          contexts[is_windowed(layers)],
          measure_context(sequence, model, times.short_context_seconds.seconds.back(), share,
                          clock));
    }
    add_context(times, contexts[is_windowed(layers)]);
    result.classes.push_back(times);
    result.compute_buffers =
        std::max(result.compute_buffers, loaded.executor->memory().compute_buffers);
  }
  return result;
}

Result<TimedOutput> measure_output_layer(const model::ModelFile& model,
                                         const LayerMeasurement& measurement, Duration limit,
                                         const Clock& clock) {
  const Instant end = clock.now() + limit;
  compute::ExecutorOptions options = executor_options(measurement);
  options.is_head = true;
  if (!measurement.gpu.empty()) options.gpus = {{measurement.gpu, {}, true}};
  PRIMA_ASSIGN_OR_RETURN(const auto executor, compute::Executor::create(model, options));
  TokenTimes times;
  std::vector<float> logits;
  for (std::size_t i = 0; i < kTimedTokens.size(); ++i) {
    const double n = kTimedTokens[i];
    if (i >= 2) {
      const double along =
          times.seconds[i - 1] + (n - kTimedTokens[i - 1]) *
                                     (times.seconds[i - 1] - times.seconds[i - 2]) /
                                     (kTimedTokens[i - 1] - kTimedTokens[i - 2]);
      if (clock.now() + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(along)) >
          end) {
        times.seconds[i] = along;
        continue;
      }
    }
    const std::vector<float> hidden(std::size_t{kTimedTokens[i]} * model.hyperparameters().n_embd,
                                    0.25f);
    PRIMA_ASSIGN_OR_RETURN(
        times.seconds[i],
        typical_seconds(limit / (2 * kTimedTokens.size()), clock, [&]() -> Result<double> {
          const Instant start = clock.now();
          PRIMA_RETURN_IF_ERROR(executor->logits(hidden, logits));
          return seconds(clock.now() - start);
        }));
  }
  make_monotone(times);
  return TimedOutput{times, executor->memory().compute_buffers};
}

}  // namespace prima::profile

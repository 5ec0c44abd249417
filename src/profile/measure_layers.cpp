#include "profile/measure_layers.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>

#include <unistd.h>

#include "base/log.h"
#include "compute/executor.h"
#include "compute/kv_cells.h"
#include "profile/typical_times.h"

namespace prima::profile {
namespace {

constexpr std::uint32_t kMostTokens = kTimedTokens.back();

// From this many tokens on a layer is bound by arithmetic: one layer, cached or not, tells.
constexpr std::uint32_t kBoundByArithmetic = 32;

// The longest context to measure at, and the least that shows above the noise.
constexpr std::uint32_t kMostContext = 1024;
constexpr std::uint32_t kLeastContext = 256;

// Compute buffers hardly depend on the context: a mask of two bytes per token and cell.
constexpr std::uint32_t kBufferContext = 4096;

// Of the limit, for repeating; the rest is for loading, and for the first time of each.
constexpr double kShareOfRepeating = 0.3;

// Of the limit, beyond it, where what looks disturbed is measured again.
constexpr double kShareOfMeasuringAgain = 0.25;

// Of the limit, for filling the cache: it is computed, as its contents decide which memory is read.
constexpr double kShareOfFilling = 0.25;

// Several times the last-level cache, but not so much that loading takes long: of what processors
// have together, and tell of, a core reaches 32 MB, of home computers' at most 96.
Bytes beyond_caches() {
  long cache = -1;
#ifdef _SC_LEVEL3_CACHE_SIZE
  cache = ::sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
  constexpr Bytes kLeast = 64 * kMiB;
  constexpr Bytes kMost = 128 * kMiB;
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
  if (measurement.budgeted) {
    options.memory = weights::MemoryBudget{.total = Bytes{1} << 50};
    options.streaming.largest_part_where_all_fit = 0;
  }
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

// The time of something that an executor computes.
class Stopwatch {
 public:
  Stopwatch(const compute::Executor& executor, const Clock& clock)
      : executor_(executor), clock_(clock), before_(executor.weight_reads()), start_(clock.now()) {}

  Repetition read(std::uint32_t n = 1) const {
    return repetition_of(clock_.now() - start_, n, before_, executor_.weight_reads());
  }

 private:
  const compute::Executor& executor_;
  const Clock& clock_;
  const compute::WeightReads before_;
  const Instant start_;
};

// One sequence whose last tokens are added and taken away again and again.
class TimedSequence {
 public:
  TimedSequence(LoadedLayers& loaded, std::uint32_t n_embd, const Clock& clock)
      : loaded_(loaded), clock_(clock), cells_(kMostContext + kMostTokens), n_embd_(n_embd) {}

  // A context of n tokens for the first layer. Its keys and values are computed once: they stay
  // where they are when tokens are taken away, and a table says whether they count.
  Status set_context(std::uint32_t n) {
    for (length_ = std::min(length_, n); length_ < n;) {
      const std::uint32_t more = std::min(kMostTokens, n - length_);
      if (length_ < computed_) {
        compute::Step step = tokens_from(length_, more);
        PRIMA_RETURN_IF_ERROR(begin(step));
      } else {
        PRIMA_RETURN_IF_ERROR(add(more, true));
      }
      length_ += more;
      computed_ = std::max(computed_, length_);
    }
    return {};
  }

  // Seconds per layer of n tokens after the context; on one layer, or on all that are loaded.
  Result<Repetition> add(std::uint32_t n, bool one_layer) {
    compute::Step step = tokens_from(length_, n);
    const Stopwatch watch(*loaded_.executor, clock_);
    PRIMA_RETURN_IF_ERROR(begin(step));
    for (const compute::LayerRange& window : loaded_.windows) {
      hidden_.assign(std::size_t{n} * n_embd_, 0.25f);
      const compute::LayerRange layers{window.first, one_layer ? window.first + 1 : window.last};
      PRIMA_RETURN_IF_ERROR(loaded_.executor->run(layers, step, hidden_));
      if (one_layer) break;
    }
    return watch.read(one_layer ? 1 : loaded_.n_layers);
  }

 private:
  // Whatever comes after the context is forgotten first.
  Status begin(compute::Step& step) {
    step.kv_operations = {{.kind = compute::KvOperation::Kind::remove,
                           .sequence = 0,
                           .target = 0,
                           .from = static_cast<std::int32_t>(length_),
                           .to = static_cast<std::int32_t>(cells_.size())}};
    PRIMA_RETURN_IF_ERROR(cells_.place(step));
    PRIMA_RETURN_IF_ERROR(cells_.apply(step));
    return loaded_.executor->begin(step);
  }

  LoadedLayers& loaded_;
  const Clock& clock_;
  compute::KvCells cells_;
  std::vector<float> hidden_;
  std::uint32_t n_embd_;
  std::uint32_t length_ = 0;    // of the context
  std::uint32_t computed_ = 0;  // tokens of it whose keys and values were computed
};

Result<TokenTimes> time_tokens(TimedSequence& sequence, Duration budget, const Clock& clock) {
  PRIMA_ASSIGN_OR_RETURN(
      const auto seconds, typical_times(kTimedTokens.size(), budget, clock, [&](std::size_t i) {
        return sequence.add(kTimedTokens[i], kTimedTokens[i] >= kBoundByArithmetic);
      }));
  TokenTimes times;
  std::ranges::copy(seconds, times.seconds.begin());
  make_consistent(times);
  return times;
}

// How long a context to measure with: the longer, the clearer what it adds, within what computing
// it may cost.
std::uint32_t context_to_measure(const model::ModelFile& model, double seconds_of_most,
                                 Duration limit) {
  const std::uint32_t n_ctx_train = model.hyperparameters().n_ctx_train;
  if (n_ctx_train <= kMostTokens) return 0;
  const double steps = kShareOfFilling * seconds(limit) / std::max(seconds_of_most, 1e-9);
  const auto length = static_cast<std::uint32_t>(
      std::clamp(steps * kMostTokens, double{kLeastContext}, double{kMostContext}));
  return std::min(length / kMostTokens * kMostTokens, n_ctx_train - kMostTokens);
}

// Without and with the context in turn, so that a machine that wavers does so for both. What is
// added is small beside the layer: where noise says that it grows faster than the tokens, or falls,
// that is noise.
Result<ContextCost> measure_context(TimedSequence& sequence, const model::ModelFile& model,
                                    double seconds_of_most, Duration limit, const Clock& clock) {
  ContextCost cost;
  cost.tokens = context_to_measure(model, seconds_of_most, limit);
  if (cost.tokens == 0) return cost;
  const auto added_to = [&](std::uint32_t n) -> Result<Repetition> {
    PRIMA_RETURN_IF_ERROR(sequence.set_context(0));
    PRIMA_ASSIGN_OR_RETURN(const Repetition without, sequence.add(n, true));
    PRIMA_RETURN_IF_ERROR(sequence.set_context(cost.tokens));
    PRIMA_ASSIGN_OR_RETURN(const Repetition with, sequence.add(n, true));
    return Repetition{with.seconds - without.seconds, with.disturbed || without.disturbed};
  };
  PRIMA_RETURN_IF_ERROR(sequence.set_context(cost.tokens));
  PRIMA_ASSIGN_OR_RETURN(
      auto added, typical_times(kTimedTokens.size() - 1, share_of(limit, kShareOfRepeating), clock,
                                [&](std::size_t i) { return added_to(kTimedTokens[i]); }));
  // So many more are bound by arithmetic too: each token adds the same.
  static_assert(kTimedTokens[kTimedTokens.size() - 2] >= kBoundByArithmetic);
  added.push_back(added.back() * kTimedTokens.back() / kTimedTokens[kTimedTokens.size() - 2]);
  cost.added.seconds.front() = std::max(0.0, added.front());
  for (std::size_t i = 1; i < kTimedTokens.size(); ++i) {
    const double before = cost.added.seconds[i - 1];
    const double most = before * kTimedTokens[i] / kTimedTokens[i - 1];
    cost.added.seconds[i] = std::clamp(added[i], before, most);
  }
  PRIMA_RETURN_IF_ERROR(sequence.set_context(0));
  return cost;
}

LayerTimes with_context(const TokenTimes& times, const ContextCost& cost) {
  LayerTimes layer{.short_context_seconds = times,
                   .long_context_seconds = times,
                   .long_context_tokens = cost.tokens};
  for (std::size_t i = 0; i < kTimedTokens.size(); ++i) {
    layer.long_context_seconds.seconds[i] += cost.added.seconds[i];
  }
  return layer;
}

// Of `times`, by class: those that took much longer for their bytes than others did.
std::vector<std::size_t> disturbed_classes(const model::ModelFile& model,
                                           const std::vector<LayerClass>& classes,
                                           const std::vector<TokenTimes>& times) {
  std::vector<double> per_byte;
  for (std::size_t i = 0; i < times.size(); ++i) {
    const Bytes bytes = model.layer_bytes(static_cast<int>(classes[i].front()));
    per_byte.push_back(times[i].seconds.front() / static_cast<double>(std::max<Bytes>(1, bytes)));
  }
  return suspicious(per_byte);
}

// What kTimedTokens[i] tokens take by the two times before. Where those contradict each other, the
// later one for as often as it takes.
double along_the_line(const TokenTimes& times, std::size_t i) {
  const double before = times.seconds[i - 2];
  const double last = times.seconds[i - 1];
  constexpr double kNoise = 1.25;
  const double per_token = before < kNoise * last ? std::max(0.0, last - before) /
                                                        (kTimedTokens[i - 1] - kTimedTokens[i - 2])
                                                  : last / kTimedTokens[i - 1];
  return last + (kTimedTokens[i] - kTimedTokens[i - 1]) * per_token;
}

}  // namespace

Result<TimedLayers> measure_layers(const model::ModelFile& model,
                                   const std::vector<LayerClass>& classes,
                                   const LayerMeasurement& measurement, const ContextCosts& known,
                                   Duration limit, const Clock& clock) {
  const auto is_windowed = [&](const LayerClass& layers) {
    return model.hyperparameters().has_sliding_window(layers.front());
  };
  std::size_t n_contexts = 0;
  for (const bool windowed : {false, true}) {
    if (known.contains(windowed)) continue;
    n_contexts += std::any_of(classes.begin(), classes.end(), [&](const LayerClass& layers) {
      return is_windowed(layers) == windowed;
    });
  }
  // A context takes about as long as a class. What loading one took is made up for by the next.
  const Instant end = clock.now() + limit;
  std::size_t n_left = classes.size() + n_contexts;
  const auto next_share = [&] {
    return std::max(end - clock.now(), Duration{}) / static_cast<std::int64_t>(n_left--);
  };
  TimedLayers result{.contexts = known};
  std::vector<TokenTimes> times;
  const auto measure = [&](const LayerClass& layers, Duration share) -> Result<TokenTimes> {
    PRIMA_ASSIGN_OR_RETURN(LoadedLayers loaded, load(model, layers, measurement));
    TimedSequence sequence(loaded, model.hyperparameters().n_embd, clock);
    PRIMA_ASSIGN_OR_RETURN(TokenTimes found,
                           time_tokens(sequence, share_of(share, kShareOfRepeating), clock));
    if (!result.contexts.contains(is_windowed(layers))) {
      PRIMA_ASSIGN_OR_RETURN(
          result.contexts[is_windowed(layers)],
          measure_context(sequence, model, found.seconds.back(), next_share(), clock));
    }
    result.compute_buffers =
        std::max(result.compute_buffers, loaded.executor->memory().compute_buffers);
    return found;
  };
  for (const LayerClass& layers : classes) {
    PRIMA_ASSIGN_OR_RETURN(times.emplace_back(), measure(layers, next_share()));
  }
  const Instant last = end + share_of(limit, kShareOfMeasuringAgain);
  for (const std::size_t i : disturbed_classes(model, classes, times)) {
    if (clock.now() >= last) break;
    log::debug("layer {} took {:.1f} ms, much for its size: measured again", classes[i].front(),
               1e3 * times[i].seconds.front());
    PRIMA_ASSIGN_OR_RETURN(const TokenTimes again, measure(classes[i], Duration{}));
    times[i] = least_of(times[i], again);
  }
  for (std::size_t i = 0; i < classes.size(); ++i) {
    result.classes.push_back(with_context(times[i], result.contexts[is_windowed(classes[i])]));
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
    if (i >= 2) {
      const double along = along_the_line(times, i);
      if (clock.now() + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(along)) >
          end) {
        times.seconds[i] = along;
        continue;
      }
    }
    const std::vector<float> hidden(std::size_t{kTimedTokens[i]} * model.hyperparameters().n_embd,
                                    0.25f);
    PRIMA_ASSIGN_OR_RETURN(const auto typical,
                           typical_times(1, limit / (2 * kTimedTokens.size()), clock,
                                         [&](std::size_t) -> Result<Repetition> {
                                           const Stopwatch watch(*executor, clock);
                                           PRIMA_RETURN_IF_ERROR(executor->logits(hidden, logits));
                                           return watch.read();
                                         }));
    times.seconds[i] = typical.front();
  }
  make_consistent(times);
  return TimedOutput{times, executor->memory().compute_buffers};
}

}  // namespace prima::profile

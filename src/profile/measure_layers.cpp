#include "profile/measure_layers.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <optional>

#include <unistd.h>

#include "compute/executor.h"
#include "compute/kv_cells.h"

namespace prima::profile {
namespace {

// A time is the median of so many at most.
constexpr std::size_t kMostRepetitions = 32;

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
  Result<double> add(std::uint32_t n, bool one_layer) {
    compute::Step step = tokens_from(length_, n);
    const Instant start = clock_.now();
    PRIMA_RETURN_IF_ERROR(begin(step));
    for (const compute::LayerRange& window : loaded_.windows) {
      hidden_.assign(std::size_t{n} * n_embd_, 0.25f);
      const compute::LayerRange layers{window.first, one_layer ? window.first + 1 : window.last};
      PRIMA_RETURN_IF_ERROR(loaded_.executor->run(layers, step, hidden_));
      if (one_layer) break;
    }
    return seconds(clock_.now() - start) / (one_layer ? 1 : loaded_.n_layers);
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

// The median of the seconds that `run(i)` gives, for each i below `n`: what generation will see, on
// a machine that wavers too. After the first of each, for `budget`, whatever took least time so far
// is repeated, so that a disturbance strikes a few repetitions of each and not all of one. The
// first builds the graph and wakes the threads: it counts only where there is no other.
template <typename Run>
Result<std::vector<double>> typical_times(std::size_t n, Duration budget, const Clock& clock,
                                          Run&& run) {
  struct Kind {
    std::vector<double> times;
    Duration spent{};
    Duration last{};
    bool is_done = false;
  };
  std::vector<Kind> kinds(n);
  const auto repeat = [&](std::size_t i) -> Status {
    const Instant begun = clock.now();
    PRIMA_ASSIGN_OR_RETURN(const double time, run(i));
    kinds[i].last = clock.now() - begun;
    kinds[i].spent += kinds[i].last;
    kinds[i].times.push_back(time);
    return {};
  };
  // Whatever comes first pays for pages that nobody used yet, too.
  PRIMA_RETURN_IF_ERROR(run(0));
  for (std::size_t i = 0; i < n; ++i) PRIMA_RETURN_IF_ERROR(repeat(i));
  const Instant end = clock.now() + budget;
  while (true) {
    std::optional<std::size_t> next;
    for (std::size_t i = 0; i < n; ++i) {
      if (!kinds[i].is_done && (!next || kinds[i].spent < kinds[*next].spent)) next = i;
    }
    if (!next) break;
    Kind& kind = kinds[*next];
    if (kind.times.size() > kMostRepetitions || clock.now() + kind.last > end) {
      kind.is_done = true;
      continue;
    }
    PRIMA_RETURN_IF_ERROR(repeat(*next));
  }
  std::vector<double> medians;
  for (Kind& kind : kinds) {
    const auto begin = kind.times.begin() + (kind.times.size() > 1 ? 1 : 0);
    const auto middle = begin + (kind.times.end() - begin - 1) / 2;
    std::nth_element(begin, middle, kind.times.end());
    medians.push_back(*middle);
  }
  return medians;
}

// More tokens cannot take less time; where noise says so, the earlier time is the better guess.
void make_monotone(TokenTimes& times) {
  for (std::size_t i = 1; i < times.seconds.size(); ++i) {
    times.seconds[i] = std::max(times.seconds[i], times.seconds[i - 1]);
  }
}

Result<TokenTimes> time_tokens(TimedSequence& sequence, Duration budget, const Clock& clock) {
  PRIMA_ASSIGN_OR_RETURN(
      const auto seconds, typical_times(kTimedTokens.size(), budget, clock, [&](std::size_t i) {
        return sequence.add(kTimedTokens[i], kTimedTokens[i] >= kBoundByArithmetic);
      }));
  TokenTimes times;
  std::ranges::copy(seconds, times.seconds.begin());
  make_monotone(times);
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
  const auto added_to = [&](std::uint32_t n) -> Result<double> {
    PRIMA_RETURN_IF_ERROR(sequence.set_context(0));
    PRIMA_ASSIGN_OR_RETURN(const double without, sequence.add(n, true));
    PRIMA_RETURN_IF_ERROR(sequence.set_context(cost.tokens));
    PRIMA_ASSIGN_OR_RETURN(const double with, sequence.add(n, true));
    return with - without;
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
  TimedLayers result{.classes = {}, .contexts = known};
  for (const LayerClass& layers : classes) {
    PRIMA_ASSIGN_OR_RETURN(LoadedLayers loaded, load(model, layers, measurement));
    TimedSequence sequence(loaded, model.hyperparameters().n_embd, clock);
    LayerTimes times;
    PRIMA_ASSIGN_OR_RETURN(times.short_context_seconds,
                           time_tokens(sequence, share_of(next_share(), kShareOfRepeating), clock));
    if (!result.contexts.contains(is_windowed(layers))) {
      PRIMA_ASSIGN_OR_RETURN(
          result.contexts[is_windowed(layers)],
          measure_context(sequence, model, times.short_context_seconds.seconds.back(), next_share(),
                          clock));
    }
    add_context(times, result.contexts[is_windowed(layers)]);
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
    PRIMA_ASSIGN_OR_RETURN(const auto typical,
                           typical_times(1, limit / (2 * kTimedTokens.size()), clock,
                                         [&](std::size_t) -> Result<double> {
                                           const Instant start = clock.now();
                                           PRIMA_RETURN_IF_ERROR(executor->logits(hidden, logits));
                                           return seconds(clock.now() - start);
                                         }));
    times.seconds[i] = typical.front();
  }
  make_monotone(times);
  return TimedOutput{times, executor->memory().compute_buffers};
}

}  // namespace prima::profile

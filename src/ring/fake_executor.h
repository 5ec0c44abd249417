// For tests: an Executor whose layers are simple arithmetic on the hidden state and a KV cache, so
// that every mistake in order, cells, masks or hops changes the result, and whose time is
// simulated. It may have a disk, from which each window is read anew unless it was kept.
#pragma once

#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "compute/executor.h"
#include "compute/kv_cells.h"

namespace prima::ring {

inline constexpr std::uint32_t kFakeEmbedding = 32;
inline constexpr std::uint32_t kFakeVocabulary = 32;

class FakeExecutor final : public compute::Executor {
 public:
  // `spend` is called for each hop with its layers and tokens, to take (simulated) time.
  using Spend = std::function<void(compute::LayerRange, std::uint32_t n_tokens)>;

  FakeExecutor(compute::ExecutorOptions options, std::uint32_t n_layer, Spend spend = {})
      : options_(std::move(options)),
        n_layer_(n_layer),
        spend_(std::move(spend)),
        cells_(options_.n_ctx) {}

  Status embed(std::span<const std::int32_t> tokens, std::vector<float>& hidden) override {
    hidden.clear();
    for (const std::int32_t token : tokens) {
      if (token < 0 || token >= static_cast<std::int32_t>(kFakeVocabulary)) {
        return fail(ErrorCode::invalid_argument, "token out of range");
      }
      for (std::uint32_t i = 0; i < kFakeEmbedding; ++i) {
        hidden.push_back(std::sin(static_cast<float>((token + 1) * static_cast<int>(i + 1))));
      }
    }
    return {};
  }

  Status begin(const compute::Step& step) override { return cells_.apply(step); }

  Status run(compute::LayerRange layers, const compute::Step& step,
             std::vector<float>& hidden) override {
    bool held = false;
    for (const compute::LayerRange& window : options_.windows) {
      held = held || (window.first <= layers.first && layers.last <= window.last);
    }
    if (!held) return fail(ErrorCode::internal, "these layers are not here");
    if (hidden.size() != std::size_t{kFakeEmbedding} * step.n_tokens()) {
      return fail(ErrorCode::internal, "a hidden state of the wrong size");
    }
    std::vector<std::uint16_t> mask(std::size_t{step.n_kv} * step.n_tokens());
    cells_.fill_mask(step, 0, mask);
    for (std::uint32_t layer = layers.first; layer < layers.last; ++layer) {
      run_layer(layer, step, mask, hidden);
    }
    read(layers);
    if (layers.last == n_layer_) {
      std::vector<float> kept;
      for (const std::uint32_t output : step.outputs) {
        const auto first = hidden.begin() + std::ptrdiff_t{output} * kFakeEmbedding;
        kept.insert(kept.end(), first, first + kFakeEmbedding);
      }
      hidden = std::move(kept);
    }
    if (spend_) spend_(layers, step.n_tokens());
    ++runs;
    return {};
  }

  Status logits(std::span<const float> hidden, std::vector<float>& logits) override {
    logits.assign(hidden.begin(), hidden.end());
    return {};
  }

  Status embeddings(std::span<const float> hidden, std::vector<float>& embeddings) override {
    embeddings.clear();
    for (const float value : hidden) embeddings.push_back(2 * value);
    return {};
  }

  void clear() override {
    cells_.clear();
    cache_.clear();
  }
  void rest() override { ++rests; }
  void keep_weights(bool keep) override { keep_ = keep; }
  compute::WeightReads weight_reads() const override { return {.waited = reads_ * read_time}; }
  compute::ExecutorMemory memory() const override {
    const Bytes streamed = on_read ? 4 : 0;
    return {
        .weights = 1, .kv_cache = 2, .compute_buffers = 3, .slots = streamed, .streamed = streamed};
  }

  // Called for each window read from disk; takes read_time. Without it all is in memory.
  std::function<void(compute::LayerRange)> on_read;
  Duration read_time{};
  int runs = 0;
  int rests = 0;

 private:
  void read(compute::LayerRange layers) {
    if (!on_read) return;
    if (kept_ != layers) {
      on_read(layers);
      ++reads_;
    }
    kept_ = keep_ ? layers : compute::LayerRange{};
  }

  void run_layer(std::uint32_t layer, const compute::Step& step,
                 const std::vector<std::uint16_t>& mask, std::vector<float>& hidden) {
    auto& cache = cache_[layer];
    cache.resize(std::size_t{options_.n_ctx} * kFakeEmbedding);
    for (std::uint32_t t = 0; t < step.n_tokens(); ++t) {
      for (std::uint32_t i = 0; i < kFakeEmbedding; ++i) {
        cache[std::size_t{step.cells[t]} * kFakeEmbedding + i] =
            hidden[std::size_t{t} * kFakeEmbedding + i];
      }
    }
    for (std::uint32_t t = 0; t < step.n_tokens(); ++t) {
      for (std::uint32_t i = 0; i < kFakeEmbedding; ++i) {
        float seen = 0;
        for (std::uint32_t cell = 0; cell < step.n_kv; ++cell) {
          if (mask[std::size_t{t} * step.n_kv + cell] != 0) continue;  // -infinity: hidden
          seen += cache[std::size_t{cell} * kFakeEmbedding + i];
        }
        float& h = hidden[std::size_t{t} * kFakeEmbedding + i];
        h = std::tanh(0.7f * h + 0.2f * seen + 0.01f * static_cast<float>(layer));
      }
    }
  }

  const compute::ExecutorOptions options_;
  const std::uint32_t n_layer_;
  const Spend spend_;
  compute::KvCells cells_;
  bool keep_ = false;
  compute::LayerRange kept_;
  int reads_ = 0;
  std::map<std::uint32_t, std::vector<float>> cache_;  // by layer: (kFakeEmbedding, n_ctx)
};

}  // namespace prima::ring

#include "plan/layout.h"

#include <algorithm>
#include <cassert>

#include "weights/stream_schedule.h"

namespace prima::plan {
namespace {

// Rows of the embedding that a head may keep in memory (weights/streamed_weights.cpp).
constexpr Bytes kEmbeddingRows = 4 * kMiB;

// The GPU on which the i-th layer of a window runs, or -1.
int gpu_of(const Window& window, std::uint32_t i) {
  for (std::size_t gpu = 0; gpu < window.gpu_layers.size(); ++gpu) {
    if (i < window.gpu_layers[gpu]) return static_cast<int>(gpu);
    i -= window.gpu_layers[gpu];
  }
  return -1;
}

// Spreads `wanted` bytes over pieces that sum to `total`, evenly: a piece is streamed where what
// was streamed so far would fall behind its share.
class EvenSpread {
 public:
  EvenSpread(double wanted, double total) : quota_(total > 0 ? wanted / total : 0) {}

  bool takes(double bytes) {
    due_ += bytes * quota_;
    if (taken_ >= due_ - 0.5) return false;  // half a byte: rounding of the sums
    taken_ += bytes;
    return true;
  }

 private:
  double quota_;
  double due_ = 0;
  double taken_ = 0;
};

// Deals a share's GPU layers over its windows, and over the GPUs within them, each as evenly as
// whole layers allow.
class GpuDealer {
 public:
  explicit GpuDealer(const Share& share) : share_(share), dealt_(share.gpu_layers.size(), 0) {
    for (const std::uint32_t layers : share.gpu_layers) total_ += layers;
  }

  void deal(Window& window) {
    window.gpu_layers.assign(share_.gpu_layers.size(), 0);
    if (total_ == 0) return;
    layers_ += window.n_layers;
    const std::uint32_t due = total_ * layers_ / share_.n_layers;
    if (dealt_.size() == 1) {  // all on it
      window.gpu_layers[0] = due - given_;
      given_ = due;
    }
    for (; given_ < due; ++given_) {
      const std::size_t gpu = furthest_behind();
      ++dealt_[gpu];
      ++window.gpu_layers[gpu];
    }
  }

 private:
  std::size_t furthest_behind() const {
    std::size_t best = 0;
    double most = -1;
    for (std::size_t gpu = 0; gpu < dealt_.size(); ++gpu) {
      if (dealt_[gpu] >= share_.gpu_layers[gpu]) continue;
      const double behind =
          static_cast<double>(share_.gpu_layers[gpu]) * (given_ + 1) / total_ - dealt_[gpu];
      if (behind > most) {
        most = behind;
        best = gpu;
      }
    }
    return best;
  }

  const Share& share_;
  std::vector<std::uint32_t> dealt_;
  std::uint32_t total_ = 0;
  std::uint32_t given_ = 0;
  std::uint32_t layers_ = 0;
};

// How many of `wanted` bytes each window streams: alike, but none more than it has.
std::vector<EvenSpread> spread_over_windows(double wanted, const std::vector<double>& bytes) {
  std::vector<double> sorted = bytes;
  std::sort(sorted.begin(), sorted.end());
  double level = 0;
  double left = wanted;
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    level = left / static_cast<double>(sorted.size() - i);
    if (level <= sorted[i]) break;
    left -= sorted[i];
  }
  std::vector<EvenSpread> spread;
  for (const double window : bytes) spread.emplace_back(std::min(level, window), window);
  return spread;
}

class DeviceBuilder {
 public:
  DeviceBuilder(const Problem& problem, const Decision& decision, std::size_t position,
                std::vector<Window> windows)
      : problem_(problem),
        share_(decision.ring[position]),
        rounds_(decision.rounds),
        is_head_(position == 0) {
    layout_.windows = std::move(windows);
    layout_.vram_bytes.resize(problem.vram_budget[share_.device].size());
  }

  std::optional<DeviceLayout> build() {
    count();
    if (!fits_gpus() || !split()) return std::nullopt;
    for (std::uint32_t round = 0; round < rounds_; ++round) add_window(round);
    if (is_head_) add_output();
    const Bytes weights = cpu_dense_ + cpu_experts_;  // stages are whole blocks, a little more
    layout_.resident_bytes += weights - std::min(weights, layout_.streamed_bytes);
    return std::move(layout_);
  }

 private:
  void count() {
    dense_bytes_.assign(rounds_, 0);
    expert_bytes_.assign(rounds_, 0);
    for (std::uint32_t round = 0; round < rounds_; ++round) {
      const Window& window = layout_.windows[round];
      for (std::uint32_t i = 0; i < window.n_layers; ++i) {
        const ClassBytes& layer = problem_.classes[problem_.shape.layers[window.first_layer + i]];
        count(round, layer, gpu_of(window, i));
      }
    }
    // The output layer is last in the order of use.
    if (is_head_) count(0, problem_.classes.back(), share_.output_gpu);
  }

  void count(std::uint32_t round, const ClassBytes& layer, int gpu) {
    if (gpu >= 0) {
      layout_.vram_bytes[gpu] += layer.weights() + layer.kv;
      if (unified()) layout_.resident_bytes += layer.weights();
    } else {
      stages_.insert(stages_.end(), layer.stages.begin(), layer.stages.end());
      cpu_dense_ += layer.dense;
      cpu_experts_ += layer.experts;
      dense_bytes_[round] += static_cast<double>(layer.dense);
      expert_bytes_[round] += static_cast<double>(layer.experts);
    }
    if (gpu < 0 || unified()) layout_.kv_bytes += layer.kv;
  }

  bool unified() const { return problem_.cluster.devices[share_.device].unified_memory; }

  bool fits_gpus() const {
    const auto& budget = problem_.vram_budget[share_.device];
    for (std::size_t gpu = 0; gpu < budget.size(); ++gpu) {
      const bool has_room = share_.room.gpu == static_cast<int>(gpu);
      const Bytes room = has_room ? problem_.bytes_of(share_.room) : 0;
      if (layout_.vram_bytes[gpu] + room > budget[gpu]) return false;
    }
    return true;
  }

  // Decides how many bytes are streamed, and from which kind of piece.
  bool split() {
    const Bytes budget = problem_.budget[share_.device];
    const Bytes fixed = layout_.resident_bytes + layout_.kv_bytes;
    const Bytes weights = cpu_dense_ + cpu_experts_;
    if (fixed + weights <= budget) return true;
    const Bytes slots = share_.slot_bytes;
    if (slots < problem_.min_slots || fixed + slots > budget) return false;
    if (problem_.cluster.devices[share_.device].disk_read_bytes_per_second <= 0) return false;
    layout_.slot_bytes = slots;
    streams_ = true;
    if (!stages_.empty()) return schedule_stages(budget - fixed);
    const Bytes overflow = fixed + weights + slots - budget;
    const Bytes from_experts = std::min(overflow, cpu_experts_);
    experts_ = spread_over_windows(static_cast<double>(from_experts), expert_bytes_);
    dense_ = spread_over_windows(static_cast<double>(overflow - from_experts), dense_bytes_);
    return true;
  }

  // Rule 4. `budget`: for weights and slots.
  bool schedule_stages(Bytes budget) {
    Bytes staged = 0;
    for (const Bytes stage : stages_) staged += stage;
    const Bytes weights = cpu_dense_ + cpu_experts_;
    Bytes always = weights > staged ? weights - staged : 0;  // norms and biases
    if (is_head_) always += kEmbeddingRows;
    if (always >= budget) return false;
    auto schedule = weights::schedule_streaming(stages_, budget - always, share_.slot_bytes);
    if (!schedule) return false;
    stage_is_streamed_ = std::move(schedule->streamed);
    return true;
  }

  void add_window(std::uint32_t round) {
    const Window& window = layout_.windows[round];
    for (std::uint32_t i = 0; i < window.n_layers; ++i) {
      const std::uint16_t layer_class = problem_.shape.layers[window.first_layer + i];
      add_layer(round, layer_class, gpu_of(window, i));
    }
  }

  void add_output() {
    if (problem_.classes.back().dense == 0) return;
    add_layer(rounds_, static_cast<std::uint16_t>(problem_.output_class()), share_.output_gpu);
  }

  void add_layer(std::uint32_t visit, std::uint16_t layer_class, int gpu) {
    if (gpu >= 0) {
      add_gpu_layer(visit, layer_class, gpu);
      return;
    }
    const ClassBytes& layer = problem_.classes[layer_class];
    resident_open_ = false;
    if (!layer.stages.empty()) {
      add_stages(visit, layer_class, layer.stages);
      return;
    }
    add_pieces(visit, layer_class, layer.dense, false);
    add_pieces(visit, layer_class, layer.experts, true);
  }

  void add_gpu_layer(std::uint32_t visit, std::uint16_t layer_class, int gpu) {
    if (!layout_.segments.empty()) {
      Segment& last = layout_.segments.back();
      if (last.visit == visit && last.gpu == gpu && last.layer_class == layer_class) {
        last.layers += 1;
        return;
      }
    }
    Segment& segment = layout_.segments.emplace_back();
    segment.visit = visit;
    segment.layer_class = layer_class;
    segment.gpu = static_cast<std::int16_t>(gpu);
    segment.layers = 1;
  }

  void add_pieces(std::uint32_t visit, std::uint16_t layer_class, Bytes bytes, bool expert) {
    const std::uint32_t n = piece_count(bytes, problem_.shape.piece_bytes);
    Bytes begin = 0;
    for (std::uint32_t i = 0; i < n; ++i) {
      const Bytes end = bytes * (i + 1) / n;
      const auto piece = static_cast<double>(end - begin);
      const bool streamed =
          streams_ && (expert ? experts_ : dense_)[visit == rounds_ ? 0 : visit].takes(piece);
      Segment& segment = segment_for(visit, layer_class, streamed);
      (expert ? segment.expert_bytes : segment.dense_bytes) += piece;
      segment.expert = expert;
      if (streamed) layout_.streamed_bytes += end - begin;
      begin = end;
    }
  }

  void add_stages(std::uint32_t visit, std::uint16_t layer_class,
                  const std::vector<Bytes>& stages) {
    for (const Bytes stage : stages) {
      const bool streamed = streams_ && stage_is_streamed_[next_stage_];
      ++next_stage_;
      segment_for(visit, layer_class, streamed).dense_bytes += static_cast<double>(stage);
      if (streamed) layout_.streamed_bytes += stage;
    }
  }

  // Resident pieces of a layer that follow each other are one segment.
  Segment& segment_for(std::uint32_t visit, std::uint16_t layer_class, bool streamed) {
    if (!streamed && resident_open_) return layout_.segments.back();
    Segment& segment = layout_.segments.emplace_back();
    segment.visit = visit;
    segment.layer_class = layer_class;
    segment.streamed = streamed;
    resident_open_ = !streamed;
    return segment;
  }

  const Problem& problem_;
  const Share& share_;
  std::uint32_t rounds_;
  bool is_head_;
  DeviceLayout layout_;
  Bytes cpu_dense_ = 0;
  Bytes cpu_experts_ = 0;
  std::vector<double> dense_bytes_;  // on the CPU, by window
  std::vector<double> expert_bytes_;
  bool streams_ = false;
  std::vector<Bytes> stages_;  // on the CPU, in order of use, where the model's are known
  std::vector<bool> stage_is_streamed_;
  std::size_t next_stage_ = 0;
  std::vector<EvenSpread> dense_;  // by window
  std::vector<EvenSpread> experts_;
  bool resident_open_ = false;  // the last segment takes more resident pieces of this layer
};

// In order of layers; GPU layers not dealt yet.
template <typename Visit>
void for_each_window(const Problem& problem, const Decision& decision, const Visit& visit) {
  Window window;
  for (std::uint32_t round = 0; round < decision.rounds; ++round) {
    for (std::size_t i = 0; i < decision.ring.size(); ++i) {
      window.n_layers = dealt(decision.ring[i].n_layers, round, decision.rounds);
      visit(i, round, window);
      window.first_layer += window.n_layers;
    }
  }
  assert(window.first_layer == problem.n_layers());
}

}  // namespace

Weights weights_of(const Problem& problem, std::size_t device, const DeviceLayout& layout) {
  const auto held = static_cast<double>(layout.resident_bytes + layout.kv_bytes);
  return problem.weights_of(device, layout.slot_bytes > 0, held);
}

void deal_gpu_layers(const Share& share, std::vector<Window>& windows) {
  GpuDealer dealer(share);
  for (Window& window : windows) dealer.deal(window);
}

std::vector<Window> windows_at(const Problem& problem, const Decision& decision,
                               std::size_t position) {
  std::vector<Window> windows(decision.rounds);
  for_each_window(problem, decision, [&](std::size_t i, std::uint32_t round, const Window& window) {
    if (i == position) windows[round] = window;
  });
  deal_gpu_layers(decision.ring[position], windows);
  return windows;
}

std::vector<std::vector<Window>> windows_of(const Problem& problem, const Decision& decision) {
  std::vector<std::vector<Window>> windows(decision.ring.size(),
                                           std::vector<Window>(decision.rounds));
  for_each_window(problem, decision, [&](std::size_t i, std::uint32_t round, const Window& window) {
    windows[i][round] = window;
  });
  for (std::size_t i = 0; i < windows.size(); ++i) deal_gpu_layers(decision.ring[i], windows[i]);
  return windows;
}

std::optional<Layout> lay_out(const Problem& problem, const Decision& decision) {
  Layout layout;
  auto windows = windows_of(problem, decision);
  for (std::size_t i = 0; i < decision.ring.size(); ++i) {
    auto device = DeviceBuilder(problem, decision, i, std::move(windows[i])).build();
    if (!device) return std::nullopt;
    layout.devices.push_back(std::move(*device));
  }
  return layout;
}

}  // namespace prima::plan

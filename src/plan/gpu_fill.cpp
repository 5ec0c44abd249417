#include "plan/gpu_fill.h"

#include <algorithm>
#include <numeric>

#include "plan/load.h"

namespace prima::plan {
namespace {

class Filler {
 public:
  Filler(const Problem& problem, Decision& decision, std::size_t position)
      : problem_(problem),
        decision_(decision),
        position_(position),
        share_(decision.ring[position]),
        capacity_(capacity_of(problem, share_.device)),
        n_kinds_(problem.kinds().size()),
        windows_(windows_at(problem, decision, position)) {
    bytes_before_.reserve(problem.n_layers() + 1);
    bytes_before_.push_back(0);
    for (const std::uint16_t c : problem.shape.layers) {
      const Bytes layer = problem.classes[c].weights() + problem.classes[c].kv;
      largest_layer_bytes_ = std::max(largest_layer_bytes_, layer);
      bytes_before_.push_back(bytes_before_.back() + layer);
    }
  }

  void fill(const GpuDemands& demands) {
    const std::optional<int> forced_output = demands.output;
    const std::size_t n_gpus = problem_.vram_budget[share_.device].size();
    std::vector<std::size_t> order(n_gpus);
    std::iota(order.begin(), order.end(), 0);
    const StepCosts::Device& costs = problem_.decode.devices[share_.device];
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return costs.gpu_seconds[a][0] < costs.gpu_seconds[b][0];
    });

    std::vector<std::uint32_t> best_layers(n_gpus, 0);
    int best_output = forced_output.value_or(-1);
    Quality best = quality_with(best_layers, best_output);
    const int first_output = forced_output.value_or(-1);
    const int last_output =
        forced_output.value_or(position_ == 0 ? static_cast<int>(n_gpus) - 1 : -1);
    // The fastest first, and each other one first, then the rest in order.
    for (std::size_t first = 0; first < n_gpus; ++first) {
      std::vector<std::size_t> tried = order;
      std::rotate(tried.begin(), tried.begin() + static_cast<std::ptrdiff_t>(first),
                  tried.begin() + static_cast<std::ptrdiff_t>(first) + 1);
      for (int output = first_output; output <= last_output; ++output) {
        share_.output_gpu = output;
        fill_in_order(tried);
        const Quality quality = quality_with(share_.gpu_layers, output);
        if (quality < best) {
          best = quality;
          best_layers = share_.gpu_layers;
          best_output = output;
        }
      }
    }
    share_.gpu_layers = best_layers;
    share_.output_gpu = best_output;
    if (demands.room) {
      leave(*demands.room);
    } else {
      leave_best_room(best);
    }
  }

 private:
  struct Quality {
    double excess = 0;
    double seconds = 0;
    bool operator<(const Quality& other) const {
      return excess != other.excess ? excess < other.excess : seconds < other.seconds;
    }
  };

  bool has_processor_layers() const {
    return std::accumulate(share_.gpu_layers.begin(), share_.gpu_layers.end(), 0u) <
           share_.n_layers;
  }

  void leave_best_room(Quality best) {
    if (!has_processor_layers()) return;
    const std::vector<std::uint32_t> filled = share_.gpu_layers;
    std::vector<std::uint32_t> best_layers = filled;
    PromptRoom best_room;
    for (const PromptRoom room : problem_.rooms[share_.device]) {
      share_.gpu_layers = filled;
      const Quality quality = leave(room);
      if (!(quality < best)) continue;
      best = quality;
      best_layers = share_.gpu_layers;
      best_room = share_.room;
    }
    share_.gpu_layers = best_layers;
    share_.room = best_room;
  }

  // Beside the layers of the other GPUs, or instead of them, where visiting is faster than those.
  Quality leave(PromptRoom room) {
    const std::vector<std::uint32_t> filled = share_.gpu_layers;
    free_room(room);
    const Quality beside = quality_with(share_.gpu_layers, share_.output_gpu);
    if (!share_.room || share_.gpu_layers.size() == 1) return beside;
    const std::vector<std::uint32_t> best = share_.gpu_layers;
    std::vector<std::uint32_t> alone(filled.size(), 0);
    alone[share_.room.gpu] = best[share_.room.gpu];
    const Quality instead = quality_with(alone, share_.output_gpu);
    if (instead < beside) return instead;
    share_.gpu_layers = best;
    return beside;
  }

  // As many layers leave the GPU as must; no room where that is not enough.
  void free_room(PromptRoom room) {
    share_.room = room;
    if (!room) return;
    std::uint32_t& layers = share_.gpu_layers[room.gpu];
    const std::uint32_t before = layers;
    while (true) {
      const Bytes excess = vram_excess_bytes();
      if (excess == 0) return;
      if (layers == 0) break;
      const Bytes leave = std::max<Bytes>(1, excess / largest_layer_bytes_);
      layers -= static_cast<std::uint32_t>(std::min<Bytes>(layers, leave));
    }
    layers = before;
    share_.room = {};
  }

  // By how much what the GPUs are given is above their memory: load_of()'s, without the rest of it.
  Bytes vram_excess_bytes() {
    deal_gpu_layers(share_, windows_);
    Bytes excess = 0;
    for (std::size_t gpu = 0; gpu < share_.gpu_layers.size(); ++gpu) {
      Bytes bytes = 0;
      for (const Window& window : windows_) {
        std::uint32_t first = window.first_layer;
        for (std::size_t before = 0; before < gpu; ++before) first += window.gpu_layers[before];
        bytes += bytes_before_[first + window.gpu_layers[gpu]] - bytes_before_[first];
      }
      const bool has_output = share_.output_gpu == static_cast<int>(gpu) && position_ == 0;
      if (has_output) bytes += problem_.classes.back().weights();
      const bool has_room = share_.room.gpu == static_cast<int>(gpu);
      if (has_room) bytes += problem_.bytes_of(share_.room);
      const Bytes budget = problem_.vram_budget[share_.device][gpu];
      excess += bytes > budget ? bytes - budget : 0;
    }
    return excess;
  }

  Quality quality_with(const std::vector<std::uint32_t>& layers, int output) {
    share_.gpu_layers = layers;
    share_.output_gpu = output;
    deal_gpu_layers(share_, windows_);
    const Load mine = load_of(problem_, decision_, position_, windows_);
    Quality quality;
    quality.excess = excess_bytes(mine, capacity_);
    const double over = mine.weight_bytes() + mine.fixed_bytes - capacity_.budget_bytes;
    const double disk = over > 0 && capacity_.disk_bytes_per_second > 0
                            ? over / capacity_.disk_bytes_per_second
                            : 0;
    const double turns = std::max(mine.compute_seconds[0], disk);
    // The whole prompt, or all sequences, as one step.
    const double another = n_kinds_ > 1 ? std::max(mine.compute_seconds[1], disk) : 0;
    switch (problem_.request.objective) {
      case Objective::tpot: quality.seconds = turns; break;
      case Objective::ttft:
      case Objective::throughput: quality.seconds = another; break;
      case Objective::answer:
        quality.seconds = another + problem_.request.answer_tokens * turns;
        break;
    }
    return quality;
  }

  void fill_in_order(const std::vector<std::size_t>& order) {
    std::fill(share_.gpu_layers.begin(), share_.gpu_layers.end(), 0);
    if (vram_excess_bytes() > 0) return;  // the output layer alone is too large
    std::uint32_t left = share_.n_layers;
    for (const std::size_t gpu : order) {
      // The most that fit: ever further from what should on average until that is passed, then by
      // halving; then one by one, since it is not quite monotone.
      std::uint32_t fits = 0;
      std::uint32_t fails = left + 1;
      const auto try_layers = [&](std::uint32_t layers) {
        share_.gpu_layers[gpu] = layers;
        return vram_excess_bytes() == 0;
      };
      const Bytes average = std::max<Bytes>(1, bytes_before_.back() / problem_.n_layers());
      const Bytes budget = problem_.vram_budget[share_.device][gpu];
      auto next = static_cast<std::uint32_t>(std::min<Bytes>(budget / average, left));
      for (std::uint32_t stride = 1; fails - fits > 1; stride *= 2) {
        next = std::clamp(next, fits + 1, fails - 1);
        const bool fit = try_layers(next);
        (fit ? fits : fails) = next;
        const bool is_passed = fits > 0 && fails <= left;
        const std::uint32_t further = fit ? fits + stride : fails - std::min(stride, fails);
        next = is_passed ? fits + (fails - fits) / 2 : further;
      }
      for (std::uint32_t more = fits + 1; more <= std::min(left, fits + 2); ++more) {
        if (try_layers(more)) fits = more;
      }
      share_.gpu_layers[gpu] = fits;
      left -= fits;
    }
  }

  const Problem& problem_;
  Decision& decision_;
  std::size_t position_;
  Share& share_;
  Capacity capacity_;
  std::size_t n_kinds_;
  std::vector<Window> windows_;
  std::vector<Bytes> bytes_before_;  // of weights and KV cache, by layer
  Bytes largest_layer_bytes_ = 1;
};

}  // namespace

void fill_gpus(const Problem& problem, Decision& decision, std::size_t position,
               const GpuDemands& demands) {
  Share& share = decision.ring[position];
  share.gpu_layers.assign(problem.vram_budget[share.device].size(), 0);
  share.output_gpu = -1;
  share.room = {};
  if (!share.gpu_layers.empty()) Filler(problem, decision, position).fill(demands);
}

}  // namespace prima::plan

#include "plan/relaxation.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "plan/infinity.h"

namespace prima::plan {
namespace {

constexpr float kInfinityF = std::numeric_limits<float>::infinity();

// Sums are kept in float (four or eight to an instruction) and rounded down by this to stay a
// bound.
constexpr double kRounding = 1 - 1e-5;

// More ways to hold the same layers than this are replaced by one that is no worse than any.
constexpr std::size_t kMaxWays = 4;

bool no_worse(const Load& a, const Load& b) {
  for (std::size_t kind = 0; kind < kMaxStepKinds; ++kind) {
    if (a.compute_seconds[kind] > b.compute_seconds[kind]) return false;
  }
  return a.cpu_dense_bytes <= b.cpu_dense_bytes && a.cpu_expert_bytes <= b.cpu_expert_bytes &&
         a.fixed_bytes <= b.fixed_bytes && a.cpu_layers >= b.cpu_layers;
}

Load best_of_each(const Load& a, const Load& b) {
  Load best = a;
  for (std::size_t kind = 0; kind < kMaxStepKinds; ++kind) {
    best.compute_seconds[kind] = std::min(a.compute_seconds[kind], b.compute_seconds[kind]);
  }
  best.cpu_dense_bytes = std::min(a.cpu_dense_bytes, b.cpu_dense_bytes);
  best.cpu_expert_bytes = std::min(a.cpu_expert_bytes, b.cpu_expert_bytes);
  best.fixed_bytes = std::min(a.fixed_bytes, b.fixed_bytes);
  best.cpu_layers = std::max(a.cpu_layers, b.cpu_layers);
  return best;
}

void keep_non_dominated(std::vector<Load>& ways, const Load& load) {
  for (const Load& way : ways) {
    if (no_worse(way, load)) return;
  }
  std::erase_if(ways, [&](const Load& way) { return no_worse(load, way); });
  ways.push_back(load);
}

}  // namespace

Relaxation::Relaxation(const Problem& problem, Classes classes)
    : problem_(problem), kinds_(problem.kinds()) {
  make_classes(classes);
  for (const RelaxedClass& layer : classes_) {
    radix_.push_back(static_cast<std::uint32_t>(layer.count) + 1);
    n_states_ *= radix_.back();
  }
  std::vector<std::uint32_t> digits(radix_.size(), 0);
  for (std::size_t state = 0; state < n_states_; ++state) {
    counts_.push_back(digits);
    for (std::size_t c = radix_.size(); c-- > 0;) {
      if (++digits[c] < radix_[c]) break;
      digits[c] = 0;
    }
  }
  for (std::size_t device = 0; device < problem.n_devices(); ++device) make_device(device);
}

void Relaxation::make_classes(Classes classes) {
  const std::size_t n = problem_.n_devices();
  for (std::size_t c = 0; c <= problem_.output_class(); ++c) {
    const ClassBytes& bytes = problem_.classes[c];
    RelaxedClass layer;
    layer.count = static_cast<double>(
        std::count(problem_.shape.layers.begin(), problem_.shape.layers.end(), c));
    layer.dense_bytes = static_cast<double>(bytes.dense);
    layer.expert_bytes = static_cast<double>(bytes.experts);
    layer.kv_bytes = static_cast<double>(bytes.kv);
    layer.cpu_seconds.resize(n);
    layer.visiting_seconds.resize(n);
    layer.gpu_seconds.resize(n);
    for (std::size_t device = 0; device < n; ++device) {
      for (std::size_t kind = 0; kind < kinds_.size(); ++kind) {
        const StepCosts::Device& costs = kinds_[kind]->devices[device];
        double best = costs.processor(Weights::either).seconds[c];
        layer.cpu_seconds[device][kind] = best;
        double& visiting = layer.visiting_seconds[device][kind];
        visiting = best;
        for (const PromptRoom room : problem_.rooms[device]) {
          visiting = std::min(visiting, costs.processor(Weights::either, room).seconds[c]);
        }
        for (const auto& gpu : costs.gpu_seconds) best = std::min(best, gpu[c]);
        layer.gpu_seconds[device][kind] = best;
      }
    }
    if (c == problem_.output_class()) {
      output_ = std::move(layer);
    } else if (layer.count > 0) {
      classes_.push_back(std::move(layer));
    }
  }
  if (classes == Classes::averaged) {
    while (classes_.size() > 1) {
      RelaxedClass& a = classes_[classes_.size() - 2];
      const RelaxedClass& b = classes_.back();
      const double sum = a.count + b.count;
      const auto mean = [&](double x, double y) { return (x * a.count + y * b.count) / sum; };
      a.dense_bytes = mean(a.dense_bytes, b.dense_bytes);
      a.expert_bytes = mean(a.expert_bytes, b.expert_bytes);
      a.kv_bytes = mean(a.kv_bytes, b.kv_bytes);
      for (std::size_t device = 0; device < n; ++device) {
        for (std::size_t kind = 0; kind < kMaxStepKinds; ++kind) {
          a.cpu_seconds[device][kind] =
              mean(a.cpu_seconds[device][kind], b.cpu_seconds[device][kind]);
          a.visiting_seconds[device][kind] =
              mean(a.visiting_seconds[device][kind], b.visiting_seconds[device][kind]);
          a.gpu_seconds[device][kind] =
              mean(a.gpu_seconds[device][kind], b.gpu_seconds[device][kind]);
        }
      }
      a.count = sum;
      classes_.pop_back();
    }
  }
  const auto states = [&] {
    double product = 1;
    for (const RelaxedClass& layer : classes_) product *= layer.count + 1;
    return product;
  };
  while (states() > kMaxStates && classes_.size() > 1) join_classes();
}

void Relaxation::join_classes() {
  std::size_t first = 0;
  std::size_t second = 1;
  double least = kInfinity;
  for (std::size_t a = 0; a < classes_.size(); ++a) {
    for (std::size_t b = a + 1; b < classes_.size(); ++b) {
      const auto bytes = [](const RelaxedClass& c) { return c.weight_bytes() + c.kv_bytes; };
      const double fewer = std::min(classes_[a].count, classes_[b].count);
      const double lost = fewer * std::abs(bytes(classes_[a]) - bytes(classes_[b]));
      if (lost < least) {
        least = lost;
        first = a;
        second = b;
      }
    }
  }
  RelaxedClass& into = classes_[first];
  const RelaxedClass& from = classes_[second];
  into.count += from.count;
  into.dense_bytes = std::min(into.dense_bytes, from.dense_bytes);
  into.expert_bytes = std::min(into.expert_bytes, from.expert_bytes);
  into.kv_bytes = std::min(into.kv_bytes, from.kv_bytes);
  for (std::size_t device = 0; device < problem_.n_devices(); ++device) {
    for (std::size_t kind = 0; kind < kMaxStepKinds; ++kind) {
      into.cpu_seconds[device][kind] =
          std::min(into.cpu_seconds[device][kind], from.cpu_seconds[device][kind]);
      into.visiting_seconds[device][kind] =
          std::min(into.visiting_seconds[device][kind], from.visiting_seconds[device][kind]);
      into.gpu_seconds[device][kind] =
          std::min(into.gpu_seconds[device][kind], from.gpu_seconds[device][kind]);
    }
  }
  classes_.erase(classes_.begin() + static_cast<std::ptrdiff_t>(second));
}

void Relaxation::make_device(std::size_t index) {
  Device device;
  device.capacity = capacity_of(problem_, index);
  device.unified = problem_.cluster.devices[index].unified_memory;
  for (const Bytes bytes : problem_.vram_budget[index]) {
    device.vram_bytes += static_cast<double>(bytes);
  }
  device.has_room = !problem_.rooms[index].empty();
  device.room_bytes = static_cast<double>(problem_.room_bytes.front());
  for (std::size_t kind = 0; kind < kinds_.size(); ++kind) {
    double least = kInfinity;
    for (std::size_t to = 0; to < problem_.n_devices(); ++to) {
      if (to == index) continue;
      const StepCosts::Hop& hop = problem_.hop(*kinds_[kind], index, to);
      for (const LinkFormat format : problem_.request.link_formats) {
        least = std::min(least, hop.total_seconds(format));
      }
    }
    device.least_hop_seconds[kind] = problem_.n_devices() > 1 ? least : 0;
    double copy = kInfinity;
    for (const double seconds : kinds_[kind]->devices[index].gpu_copy_seconds) {
      copy = std::min(copy, seconds);
    }
    device.least_copy_seconds[kind] = std::isfinite(copy) ? copy : 0;
  }
  for (std::size_t state = 0; state < n_states_; ++state) {
    device.first.push_back(static_cast<std::uint32_t>(device.loads.size()));
    add_loads(device, index, counts_[state]);
  }
  device.first.push_back(static_cast<std::uint32_t>(device.loads.size()));
  devices_.push_back(std::move(device));
}

// All ways to put as many layers as fit on the GPUs, class by class, and none; and beside room for
// prompts.
void Relaxation::add_loads(Device& device, std::size_t index,
                           const std::vector<std::uint32_t>& counts) {
  const bool is_head = index == problem_.cluster.head;
  std::vector<Load> ways;
  std::vector<std::uint32_t> on_gpu(counts.size(), 0);

  bool with_room = false;
  const auto add = [&](bool output_on_gpu) {
    Load load;
    bool any_gpu = output_on_gpu;
    const auto put = [&](const RelaxedClass& layer, double n, bool gpu) {
      for (std::size_t kind = 0; kind < kinds_.size(); ++kind) {
        load.compute_seconds[kind] += n * (gpu         ? layer.gpu_seconds
                                           : with_room ? layer.visiting_seconds
                                                       : layer.cpu_seconds)[index][kind];
      }
      if (gpu && !device.unified) return;
      load.cpu_layers += n;
      load.cpu_dense_bytes += n * layer.dense_bytes;
      load.cpu_expert_bytes += n * layer.expert_bytes;
      load.fixed_bytes += n * layer.kv_bytes;
    };
    for (std::size_t c = 0; c < counts.size(); ++c) {
      put(classes_[c], counts[c] - on_gpu[c], false);
      put(classes_[c], on_gpu[c], true);
      any_gpu = any_gpu || on_gpu[c] > 0;
    }
    if (is_head) put(output_, 1, output_on_gpu);
    for (std::size_t kind = 0; any_gpu && kind < kinds_.size(); ++kind) {
      load.compute_seconds[kind] += device.least_copy_seconds[kind];
    }
    if (excess_bytes(load, device.capacity) == 0) keep_non_dominated(ways, load);
  };

  add(false);
  if (device.vram_bytes > 0) {
    const auto fill_beside = [&](bool output_on_gpu) {
      if (output_on_gpu && !is_head) return;
      const double room = device.vram_bytes - (with_room ? device.room_bytes : 0) -
                          (output_on_gpu ? output_.weight_bytes() : 0);
      if (room < 0) return;
      const std::function<void(std::size_t, double)> fill = [&](std::size_t c, double left) {
        if (c == counts.size()) {
          add(output_on_gpu);
          return;
        }
        const double bytes = classes_[c].weight_bytes() + classes_[c].kv_bytes;
        const auto most =
            std::min(counts[c], static_cast<std::uint32_t>(std::min(left / bytes, 1e6)));
        // Fewer than fit make room for later classes only.
        const std::uint32_t least = c + 1 == counts.size() ? most : 0;
        for (std::uint32_t n = most + 1; n-- > least;) {
          on_gpu[c] = n;
          fill(c + 1, left - n * bytes);
        }
        on_gpu[c] = 0;
      };
      fill(0, room);
    };
    for (const bool room : {false, true}) {
      if (room && !device.has_room) continue;
      with_room = room;
      fill_beside(false);
      fill_beside(true);
    }
  }
  if (ways.size() > kMaxWays) {
    Load best = ways[0];
    for (const Load& way : ways) best = best_of_each(best, way);
    ways = {best};
  }
  device.loads.insert(device.loads.end(), ways.begin(), ways.end());
}

std::vector<float> Relaxation::costs_of(const Device& device, const Terms& terms) const {
  std::vector<float> costs(n_states_, kInfinityF);
  for (std::size_t state = 0; state < n_states_; ++state) {
    double least = kInfinity;
    for (std::uint32_t i = device.first[state]; i < device.first[state + 1]; ++i) {
      const Load& load = device.loads[i];
      if (load.compute_seconds[terms.kind] > terms.kind_cap_seconds) continue;
      const double turns =
          turn_seconds(load, device.capacity, terms.rounds_ahead, terms.period_seconds);
      if (turns > terms.period_seconds) continue;
      double cost = terms.decode_weight * turns;
      if (terms.kind_weight > 0) cost += terms.kind_weight * load.compute_seconds[terms.kind];
      least = std::min(least, cost);
    }
    costs[state] = static_cast<float>(least);
  }
  return costs;
}

double Relaxation::hop_cost(const Device& device, const Terms& terms) const {
  return terms.rounds_hops * (terms.decode_weight * device.least_hop_seconds[0] +
                              terms.kind_weight * device.least_hop_seconds[terms.kind]);
}

// Of each row of states, from where to where anything is finite and not above the limit.
std::vector<Relaxation::Span> Relaxation::spans_of(const std::vector<float>& values,
                                                   float limit) const {
  const std::size_t row = radix_.back();
  std::vector<Span> spans(n_states_ / row, Span{row, 0});
  for (std::size_t state = 0; state < n_states_; ++state) {
    if (values[state] > limit || values[state] == kInfinityF) continue;
    Span& span = spans[state / row];
    span.begin = std::min(span.begin, state % row);
    span.end = state % row + 1;
  }
  return spans;
}

// after[s] = min(before[s], min over n > 0 of before[s - n] + costs[n] + hop)
std::vector<float> Relaxation::with_device(const std::vector<float>& before,
                                           const std::vector<float>& costs, float hop,
                                           float limit) const {
  std::vector<float> after = before;
  const std::size_t row = radix_.back();
  const std::size_t n_rows = n_states_ / row;
  const std::size_t n_outer = radix_.size() - 1;
  const std::vector<Span> sources = spans_of(before, limit);
  const std::vector<Span> takes = spans_of(costs, limit - hop);
  for (std::size_t taken_row = 0; taken_row < n_rows; ++taken_row) {
    const auto& taken = counts_[taken_row * row];
    const Span& take = takes[taken_row];
    for (std::size_t to_row = taken_row; to_row < n_rows && take.begin < take.end; ++to_row) {
      // Mixed-radix numbers subtract without borrowing, so rows do too.
      const Span& from = sources[to_row - taken_row];
      if (from.begin >= from.end) continue;
      const auto& to = counts_[to_row * row];
      bool possible = true;
      for (std::size_t c = 0; c < n_outer; ++c) possible = possible && to[c] >= taken[c];
      if (!possible) continue;
      const float* source = &before[(to_row - taken_row) * row];
      for (std::size_t n = take.begin; n < take.end; ++n) {
        const float cost = costs[taken_row * row + n] + hop;
        if (cost == kInfinityF) continue;
        float* target = &after[to_row * row + n];
        const std::size_t end = std::min(from.end, row - n);
        for (std::size_t k = from.begin; k < end; ++k) {
          const float sum = source[k] + cost;
          target[k] = target[k] < sum ? target[k] : sum;
        }
      }
    }
  }
  return after;
}

// The same, of the state with all layers placed.
float Relaxation::with_last_device(const std::vector<float>& before,
                                   const std::vector<float>& costs, float hop) const {
  const std::size_t full = n_states_ - 1;
  float least = before[full];
  for (std::size_t taken = 1; taken <= full; ++taken) {
    least = std::min(least, before[full - taken] + costs[taken] + hop);
  }
  return least;
}

double Relaxation::least_sum(const Terms& terms, std::vector<std::uint32_t>* layers) const {
  const std::size_t head = problem_.cluster.head;
  const std::size_t full = n_states_ - 1;
  Terms alone = terms;  // rounds mean nothing to one device
  alone.rounds_ahead = 1;
  const float head_alone = costs_of(devices_[head], alone)[full];

  // What was rounded up to a float above it counts.
  const float limit =
      std::nextafter(static_cast<float>(terms.limit_seconds / kRounding), kInfinityF);

  std::vector<std::size_t> order{head};
  std::vector<std::vector<float>> sums{costs_of(devices_[head], terms)};
  std::vector<std::vector<float>> costs{sums[0]};
  const auto head_hop = static_cast<float>(hop_cost(devices_[head], terms));
  for (float& sum : sums[0]) sum += head_hop;
  for (std::size_t device = 0; device < devices_.size(); ++device) {
    if (device == head) continue;
    order.push_back(device);
    costs.push_back(costs_of(devices_[device], terms));
    const auto hop = static_cast<float>(hop_cost(devices_[device], terms));
    if (order.size() == devices_.size()) {
      const float least = with_last_device(sums.back(), costs.back(), hop);
      sums.emplace_back(n_states_, kInfinityF)[full] = least;
    } else {
      sums.push_back(with_device(sums.back(), costs.back(), hop, limit));
    }
  }
  const float least = std::min(head_alone, sums.back()[full]);
  if (layers == nullptr || least == kInfinityF) return least * kRounding;

  layers->assign(devices_.size(), 0);
  const auto count = [&](std::size_t state) {
    std::uint32_t sum = 0;
    for (const std::uint32_t n : counts_[state]) sum += n;
    return sum;
  };
  if (head_alone <= sums.back()[full]) {
    (*layers)[head] = count(full);
    return least * kRounding;
  }
  std::size_t state = full;
  for (std::size_t i = order.size() - 1; i > 0; --i) {
    if (sums[i][state] == sums[i - 1][state]) continue;  // takes none
    const auto hop = static_cast<float>(hop_cost(devices_[order[i]], terms));
    for (std::size_t taken = 1; taken <= state; ++taken) {
      bool possible = true;
      for (std::size_t c = 0; c < radix_.size(); ++c) {
        possible = possible && counts_[taken][c] <= counts_[state][c];
      }
      if (!possible) continue;
      const float cost = costs[i][taken] + hop;
      if (sums[i - 1][state - taken] + cost != sums[i][state]) continue;
      (*layers)[order[i]] = count(taken);
      state -= taken;
      break;
    }
  }
  (*layers)[head] = count(state);
  return least * kRounding;
}

double Relaxation::balanced_seconds(std::size_t kind) const {
  // Work of one layer, in the cheapest class on each device; the output layer is left aside.
  double layers = 0;
  for (const RelaxedClass& layer : classes_) layers += layer.count;
  double layers_per_second = 0;
  for (std::size_t device = 0; device < devices_.size(); ++device) {
    double least = kInfinity;
    for (const RelaxedClass& layer : classes_) {
      least =
          std::min({least, layer.gpu_seconds[device][kind], layer.visiting_seconds[device][kind]});
    }
    layers_per_second += 1 / least;
  }
  return layers / layers_per_second;
}

}  // namespace prima::plan

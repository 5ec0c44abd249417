#include "plan/search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace prima::plan {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Descents from this many starting points.
constexpr std::size_t kMaxStarts = 4;
// An improvement below this share is not worth another step.
constexpr double kLeastGain = 1e-4;
// A format that loses precision has to gain at least this share.
constexpr double kLeastFormatGain = 0.01;
// In large rings only so many donors and takers of a layer are tried, those where it matters most.
constexpr std::size_t kMaxPartners = 6;

}  // namespace

Search::Search(const Problem& problem) : problem_(problem), evaluation_(problem) {
  // A simulation costs about as much as the ring has layers and devices; small problems can afford
  // many, large ones must not take seconds.
  const double size =
      static_cast<double>(problem.n_layers()) * static_cast<double>(problem.n_devices());
  max_simulated_ = static_cast<std::uint64_t>(std::clamp(2e5 / size, 120.0, 4000.0));
}

// Cheapest hops first, from the head (nearest neighbour), then pairs swapped while that helps.
void Search::order_ring(std::vector<Share>& ring) const {
  const auto hop = [&](std::size_t a, std::size_t b) {
    return problem_.hop(problem_.decode, ring[a].device, ring[b].device)
        .total_seconds(problem_.request.link_formats[0]);
  };
  const std::size_t n = ring.size();
  if (n < 3) return;
  for (std::size_t at = 0; at + 1 < n; ++at) {
    std::size_t nearest = at + 1;
    for (std::size_t i = at + 2; i < n; ++i) {
      if (hop(at, i) < hop(at, nearest)) nearest = i;
    }
    std::swap(ring[at + 1], ring[nearest]);
  }
  const auto length = [&] {
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) sum += hop(i, (i + 1) % n);
    return sum;
  };
  double best = length();
  for (bool improved = true; improved;) {
    improved = false;
    for (std::size_t a = 1; a < n; ++a) {
      for (std::size_t b = a + 1; b < n; ++b) {
        std::reverse(ring.begin() + static_cast<std::ptrdiff_t>(a),
                     ring.begin() + static_cast<std::ptrdiff_t>(b) + 1);
        const double now = length();
        if (now < best * (1 - 1e-9)) {
          best = now;
          improved = true;
        } else {
          std::reverse(ring.begin() + static_cast<std::ptrdiff_t>(a),
                       ring.begin() + static_cast<std::ptrdiff_t>(b) + 1);
        }
      }
    }
  }
}

// As many layers as fit, on the fastest GPU first; the output layer where all its layers fit too.
void Search::fill_gpus(Decision& decision, std::size_t position) const {
  Share& share = decision.ring[position];
  const std::size_t n_gpus = problem_.vram_budget[share.device].size();
  share.gpu_layers.assign(n_gpus, 0);
  share.output_gpu = -1;
  if (n_gpus == 0) return;
  const StepCosts::Device& costs = problem_.decode.devices[share.device];
  std::vector<std::size_t> order(n_gpus);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return costs.gpu_seconds[a][0] < costs.gpu_seconds[b][0];
  });
  double mean_bytes = 0;
  for (const std::uint16_t layer : problem_.shape.layers) {
    mean_bytes +=
        static_cast<double>(problem_.classes[layer].weights() + problem_.classes[layer].kv);
  }
  mean_bytes /= problem_.n_layers();

  const auto fits = [&] {
    const auto windows = windows_of(problem_, decision);
    const Load load = load_of(problem_, decision, position, windows[position]);
    return excess_bytes(load, capacity_of(problem_, share.device)) == 0;
  };
  std::uint32_t left = share.n_layers;
  for (const std::size_t gpu : order) {
    const auto vram = static_cast<double>(problem_.vram_budget[share.device][gpu]);
    // Layers may be smaller than the mean: try two more, then come down to what fits.
    const auto guess = static_cast<std::uint32_t>(std::min(vram / mean_bytes + 2, 1e6));
    share.gpu_layers[gpu] = std::min(left, guess);
    while (share.gpu_layers[gpu] > 0 && !fits()) --share.gpu_layers[gpu];
    left -= share.gpu_layers[gpu];
  }
  if (position != 0 || left > 0) return;
  for (const std::size_t gpu : order) {
    if (costs.gpu_seconds[gpu].back() >= costs.cpu_seconds.back()) continue;
    share.output_gpu = static_cast<int>(gpu);
    if (fits()) return;
    share.output_gpu = -1;
  }
}

Decision Search::decide(const std::vector<std::uint32_t>& layers, std::uint32_t rounds) const {
  Decision decision;
  decision.rounds = rounds;
  const auto add = [&](std::size_t device) {
    Share& share = decision.ring.emplace_back();
    share.device = static_cast<std::uint32_t>(device);
    share.n_layers = layers[device];
  };
  add(problem_.cluster.head);
  for (std::size_t device = 0; device < layers.size(); ++device) {
    if (device != problem_.cluster.head && layers[device] > 0) add(device);
  }
  if (decision.ring.size() == 1) decision.rounds = 1;
  decision.hop_formats.assign(decision.ring.size(), problem_.request.link_formats[0]);
  order_ring(decision.ring);
  for (std::size_t i = 0; i < decision.ring.size(); ++i) fill_gpus(decision, i);
  return decision;
}

double Search::value(const Sized& sized) {
  if (sized.excess_bytes > 0) return kNothing * (1 + sized.excess_bytes / 1e12);
  const double seconds = evaluation_.simulate(sized.decision);
  return std::isfinite(seconds) ? seconds : 2 * kNothing;
}

void Search::remember(const Found& found) {
  if (found.seconds < best_.seconds) best_ = found;
  const auto alike = [&](const Found& other) {
    if (other.decision.rounds != found.decision.rounds ||
        other.decision.ring.size() != found.decision.ring.size()) {
      return false;
    }
    for (std::size_t i = 0; i < other.decision.ring.size(); ++i) {
      if (other.decision.ring[i].device != found.decision.ring[i].device) return false;
    }
    return true;
  };
  const auto same = std::find_if(top_.begin(), top_.end(), alike);
  if (same != top_.end()) {
    if (found.seconds < same->seconds) *same = found;
  } else {
    top_.push_back(found);
  }
  std::stable_sort(top_.begin(), top_.end(),
                   [](const Found& a, const Found& b) { return a.seconds < b.seconds; });
  if (top_.size() > kMaxStarts) top_.pop_back();
}

void Search::consider(const Decision& decision) {
  for (const std::uint32_t margin : {0u, 1u, 3u}) {
    Sized sized = evaluation_.size(decision, margin);
    if (sized.excess_bytes == 0 && sized.relaxed_seconds > 1.5 * best_.seconds) return;
    remember({sized.decision, value(sized)});
    if (sized.excess_bytes > 0) return;
  }
}

void Search::improve() {
  const std::vector<Found> starts = top_;
  const std::uint64_t before = evaluation_.n_simulated();
  const std::uint64_t share = max_simulated_ / std::max<std::size_t>(1, starts.size());
  const std::uint64_t limit = max_simulated_;
  for (std::size_t i = 0; i < starts.size(); ++i) {
    max_simulated_ = before + share * (i + 1);
    remember(descend(starts[i]));
  }
  max_simulated_ = limit;
}

Search::Found Search::descend(Found from) {
  while (step(from) || tune_slots(from)) {
    if (evaluation_.n_simulated() >= max_simulated_) break;
  }
  tune_formats(from);
  return from;
}

// To the first neighbour, most promising first, that is better.
bool Search::step(Found& from) {
  std::vector<Sized> sized;
  for (Decision& neighbour : neighbours(from.decision)) {
    sized.push_back(evaluation_.size(std::move(neighbour)));
  }
  std::stable_sort(sized.begin(), sized.end(), [](const Sized& a, const Sized& b) {
    return a.excess_bytes != b.excess_bytes ? a.excess_bytes < b.excess_bytes
                                            : a.relaxed_seconds < b.relaxed_seconds;
  });
  const double target = from.seconds * (1 - kLeastGain);
  for (const Sized& candidate : sized) {
    if (candidate.excess_bytes == 0 && candidate.relaxed_seconds >= target) return false;
    for (const std::uint32_t margin : {0u, 1u, 3u}) {
      if (evaluation_.n_simulated() >= max_simulated_) return false;
      const Sized wider = margin == 0 ? candidate : evaluation_.size(candidate.decision, margin);
      if (margin > 0 && wider.decision == candidate.decision) break;  // nothing is streamed
      const double seconds = value(wider);
      if (seconds < target) {
        from = {wider.decision, seconds};
        return true;
      }
      if (candidate.excess_bytes > 0) return false;  // the least excess is no better
    }
  }
  return false;
}

bool Search::tune_slots(Found& from) {
  if (from.seconds >= kNothing) return false;
  bool improved = false;
  const auto try_slots = [&](const Decision& decision) {
    if (evaluation_.n_simulated() >= max_simulated_) return false;
    const double seconds = evaluation_.simulate(decision);
    if (seconds >= from.seconds * (1 - kLeastGain)) return false;
    from = {decision, seconds};
    improved = true;
    return true;
  };
  for (std::size_t i = 0; i < from.decision.ring.size(); ++i) {
    if (from.decision.ring[i].slot_bytes == 0) continue;
    for (const int direction : {1, -1}) {
      for (std::int64_t grids = 1; grids <= 8; grids *= 2) {
        Decision changed = from.decision;
        const auto slots = static_cast<std::int64_t>(changed.ring[i].slot_bytes) +
                           direction * grids * static_cast<std::int64_t>(problem_.slot_grid);
        if (slots < static_cast<std::int64_t>(problem_.min_slots)) break;
        changed.ring[i].slot_bytes = static_cast<Bytes>(slots);
        if (!try_slots(changed)) break;
      }
    }
  }
  return improved;
}

bool Search::tune_formats(Found& from) {
  bool improved = false;
  for (std::size_t i = 0; from.seconds < kNothing && i < from.decision.ring.size(); ++i) {
    for (const LinkFormat format : problem_.request.link_formats) {
      Decision changed = from.decision;
      changed.hop_formats[i] = format;
      const double seconds = evaluation_.simulate(changed);
      if (seconds > from.seconds * (1 - kLeastFormatGain)) continue;
      from = {changed, seconds};
      improved = true;
    }
  }
  return improved;
}

std::vector<Decision> Search::neighbours(const Decision& decision) const {
  std::vector<Decision> all;
  add_layer_moves(decision, all);
  add_device_moves(decision, all);
  add_gpu_moves(decision, all);
  add_round_moves(decision, all);
  return all;
}

void Search::add_layer_moves(const Decision& decision, std::vector<Decision>& into) const {
  const std::size_t n = decision.ring.size();
  // Who would gain most by giving one up, and who would lose least by taking one more.
  std::vector<std::size_t> donors(n);
  std::iota(donors.begin(), donors.end(), 0);
  std::vector<std::size_t> takers = donors;
  if (n > kMaxPartners) {
    const auto windows = windows_of(problem_, decision);
    std::vector<double> seconds;
    for (std::size_t i = 0; i < n; ++i) {
      const Load load = load_of(problem_, decision, i, windows[i]);
      const Capacity capacity = capacity_of(problem_, decision.ring[i].device);
      const auto slots = static_cast<double>(decision.ring[i].slot_bytes);
      const double disk =
          slots > 0 ? read_bytes(load, capacity, slots) / capacity.disk_bytes_per_second : 0;
      const double layers = std::max(1u, decision.ring[i].n_layers);
      // Time per layer, and time on the disk, which all others wait for.
      seconds.push_back(load.compute_seconds[0] / layers + disk);
    }
    std::stable_sort(donors.begin(), donors.end(),
                     [&](std::size_t a, std::size_t b) { return seconds[a] > seconds[b]; });
    std::stable_sort(takers.begin(), takers.end(),
                     [&](std::size_t a, std::size_t b) { return seconds[a] < seconds[b]; });
    donors.resize(kMaxPartners);
    takers.resize(kMaxPartners);
  }
  for (const std::size_t from : donors) {
    const std::uint32_t has = decision.ring[from].n_layers;
    for (const std::size_t to : takers) {
      if (from == to) continue;
      for (std::uint32_t count = 1; count <= has; count = count < 4 ? count + 1 : count * 2) {
        if (has == count && from > 0) continue;  // leaving is a move of its own
        Decision moved = decision;
        moved.ring[from].n_layers -= count;
        moved.ring[to].n_layers += count;
        fill_gpus(moved, from);
        fill_gpus(moved, to);
        into.push_back(std::move(moved));
      }
    }
  }
}

void Search::add_device_moves(const Decision& decision, std::vector<Decision>& into) const {
  const std::size_t n = decision.ring.size();
  const auto layers_by_device = [&] {
    std::vector<std::uint32_t> layers(problem_.n_devices(), 0);
    for (const Share& share : decision.ring) layers[share.device] = share.n_layers;
    return layers;
  }();
  // One leaves, another takes its layers.
  for (std::size_t leaver = 1; leaver < n; ++leaver) {
    for (std::size_t taker = 0; taker < n; ++taker) {
      if (taker == leaver) continue;
      auto layers = layers_by_device;
      layers[decision.ring[taker].device] += layers[decision.ring[leaver].device];
      layers[decision.ring[leaver].device] = 0;
      into.push_back(decide(layers, decision.rounds));
    }
  }
  // One joins: with layers of one other, or in its place.
  for (std::size_t device = 0; device < problem_.n_devices(); ++device) {
    if (device == problem_.cluster.head || layers_by_device[device] > 0) continue;
    for (std::size_t donor = 0; donor < n; ++donor) {
      const std::uint32_t has = decision.ring[donor].n_layers;
      for (std::uint32_t count = 1; count <= has; count *= 2) {
        auto layers = layers_by_device;
        layers[device] = count;
        layers[decision.ring[donor].device] -= count;
        into.push_back(decide(layers, decision.rounds));
      }
      if (donor == 0 || has == 0) continue;
      auto layers = layers_by_device;
      std::swap(layers[device], layers[decision.ring[donor].device]);
      into.push_back(decide(layers, decision.rounds));
    }
    if (n > kMaxPartners) break;  // in large rings the first idle device stands for all
  }
  // Two workers change places.
  for (std::size_t a = 1; a < n && n <= kMaxPartners; ++a) {
    for (std::size_t b = a + 1; b < n; ++b) {
      Decision swapped = decision;
      std::swap(swapped.ring[a], swapped.ring[b]);
      into.push_back(std::move(swapped));
    }
  }
}

void Search::add_gpu_moves(const Decision& decision, std::vector<Decision>& into) const {
  for (std::size_t i = 0; i < decision.ring.size(); ++i) {
    const Share& share = decision.ring[i];
    std::uint32_t on_gpus = 0;
    for (const std::uint32_t layers : share.gpu_layers) on_gpus += layers;
    for (std::size_t gpu = 0; gpu < share.gpu_layers.size(); ++gpu) {
      const auto with = [&](std::uint32_t layers) {
        Decision changed = decision;
        changed.ring[i].gpu_layers[gpu] = layers;
        into.push_back(std::move(changed));
      };
      if (share.gpu_layers[gpu] > 0) {
        with(share.gpu_layers[gpu] - 1);
        with(0);
      }
      if (on_gpus < share.n_layers) with(share.gpu_layers[gpu] + 1);
      if (i > 0) continue;
      // The output layer comes or goes, and layers make room for it.
      for (std::uint32_t fewer = 0; fewer <= std::min(2u, share.gpu_layers[gpu]); ++fewer) {
        Decision changed = decision;
        const bool here = share.output_gpu == static_cast<int>(gpu);
        if (here && fewer > 0) break;
        changed.ring[0].output_gpu = here ? -1 : static_cast<int>(gpu);
        changed.ring[0].gpu_layers[gpu] -= fewer;
        into.push_back(std::move(changed));
      }
    }
  }
}

void Search::add_round_moves(const Decision& decision, std::vector<Decision>& into) const {
  if (decision.ring.size() == 1) return;
  const std::uint32_t most =
      problem_.request.max_rounds > 0 ? problem_.request.max_rounds : problem_.n_layers();
  const std::uint32_t k = decision.rounds;
  for (const std::uint32_t rounds : {k - 1, k + 1, k / 2, k * 2}) {
    if (rounds < 1 || rounds > most || rounds == k) continue;
    Decision changed = decision;
    changed.rounds = rounds;
    for (std::size_t i = 0; i < changed.ring.size(); ++i) fill_gpus(changed, i);
    into.push_back(std::move(changed));
  }
}

}  // namespace prima::plan

#include "plan/search.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "plan/gpu_fill.h"

namespace prima::plan {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Slots are tuned for a neighbour that is no worse than this before: where few pieces make up a
// window, slots matter more than the relaxed model knows, and trying is cheap.
constexpr double kWorthTuning = 1.3;
constexpr double kWorthTuningSmall = 8;
constexpr double kSmall = 64;  // layers times devices
// Descents from this many starting points.
constexpr std::size_t kMaxStarts = 4;
// Up to so many are all looked at: two devices with 60 layers, or three with 12.
constexpr double kMaxStructures = 4000;
// ... and with every way to use their GPUs, if that makes no more than this.
constexpr double kMaxDecisions = 60000;
// An improvement below this share is not worth another step.
constexpr double kLeastGain = 1e-4;
// Pieces and visits simulated (Evaluation::work), at up to half a microsecond each. Small problems
// can be searched almost completely; large ones must not take a person's time.
constexpr std::uint64_t kMaxWork = 300'000;
constexpr std::uint64_t kMaxWorkSmall = 1'000'000;
// A format that loses precision has to gain at least this share.
constexpr double kLeastFormatGain = 0.01;
// In large rings only so many donors and takers of a layer are tried, those where it matters most.
constexpr std::size_t kMaxPartners = 6;

}  // namespace

Search::Search(const Problem& problem) : problem_(problem), evaluation_(problem) {
  const double size =
      static_cast<double>(problem.n_layers()) * static_cast<double>(problem.n_devices());
  small_ = size <= kSmall;
  max_work_ = small_ ? kMaxWorkSmall : kMaxWork;
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
  for (std::size_t i = 0; i < decision.ring.size(); ++i) fill_gpus(problem_, decision, i);
  return decision;
}

double Search::value(const Sized& sized, double target) {
  if (sized.excess_bytes > 0) return kNothing * (1 + sized.excess_bytes / 1e12);
  const double seconds = evaluation_.simulate(sized.decision, target);
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
  const Sized sized = evaluation_.size(decision);
  if (sized.excess_bytes == 0 && sized.relaxed_seconds > kWorthTuning * best_.seconds) return;
  remember(judge(sized, best_.seconds));
}

double Search::count_structures() const {
  const double n = problem_.n_layers();
  double structures = 1;
  double orders = 1;  // of w workers
  double splits = 1;  // of n layers over the head and w workers
  for (std::size_t w = 1; w < problem_.n_devices(); ++w) {
    orders *= static_cast<double>(problem_.n_devices() - w);
    splits *= (n + 1 - static_cast<double>(w)) / static_cast<double>(w);
    structures += orders * splits * most_rounds();
  }
  return structures;
}

double Search::count_offloads() const {
  double product = 1;
  for (const auto& vram : problem_.vram_budget) {
    product *= std::pow(1 + problem_.n_layers(), static_cast<double>(vram.size()));
  }
  return product * static_cast<double>(1 + problem_.vram_budget[problem_.cluster.head].size());
}

// All numbers of layers on each GPU and all places of the output layer, or the filled ones only.
void Search::for_each_offload(Decision& decision, bool every,
                              const std::function<void(const Decision&)>& visit) const {
  if (!every) {
    for (std::size_t i = 0; i < decision.ring.size(); ++i) fill_gpus(problem_, decision, i);
    visit(decision);
    return;
  }
  const std::function<void(std::size_t, std::size_t, std::uint32_t)> choose =
      [&](std::size_t i, std::size_t gpu, std::uint32_t left) {
        if (i == decision.ring.size()) {
          const auto n_gpus = static_cast<int>(decision.ring[0].gpu_layers.size());
          for (int output = -1; output < n_gpus; ++output) {
            decision.ring[0].output_gpu = output;
            visit(decision);
          }
          return;
        }
        Share& share = decision.ring[i];
        share.gpu_layers.resize(problem_.vram_budget[share.device].size());
        if (gpu == share.gpu_layers.size()) {
          choose(i + 1, 0, i + 1 < decision.ring.size() ? decision.ring[i + 1].n_layers : 0);
          return;
        }
        for (std::uint32_t layers = 0; layers <= left; ++layers) {
          share.gpu_layers[gpu] = layers;
          choose(i, gpu + 1, left - layers);
        }
        share.gpu_layers[gpu] = 0;
      };
  choose(0, 0, decision.ring[0].n_layers);
}

void Search::consider_all() {
  if (count_structures() > kMaxStructures) return;
  const bool every_offload = count_structures() * count_offloads() <= kMaxDecisions;
  std::vector<Sized> all;
  std::vector<std::uint32_t> ring{static_cast<std::uint32_t>(problem_.cluster.head)};
  const auto add = [&](const std::vector<std::uint32_t>& layers) {
    Decision decision;
    for (std::size_t i = 0; i < ring.size(); ++i) {
      Share& share = decision.ring.emplace_back();
      share.device = ring[i];
      share.n_layers = layers[i];
    }
    decision.hop_formats.assign(ring.size(), problem_.request.link_formats[0]);
    const std::uint32_t rounds = ring.size() == 1 ? 1 : most_rounds();
    for (decision.rounds = 1; decision.rounds <= rounds; ++decision.rounds) {
      for_each_offload(decision, every_offload, [&](const Decision& offloaded) {
        Sized sized = evaluation_.size(offloaded);
        if (sized.excess_bytes == 0 && sized.relaxed_seconds < best_.seconds) {
          all.push_back(std::move(sized));
        }
      });
    }
  };
  std::vector<std::uint32_t> layers;
  const std::function<void(std::uint32_t)> deal = [&](std::uint32_t left) {
    if (layers.size() + 1 == ring.size()) {
      if (left == 0 && !layers.empty()) return;  // a worker without layers
      layers.push_back(left);
      add(layers);
      layers.pop_back();
      return;
    }
    for (std::uint32_t n = layers.empty() ? 0 : 1; n <= left; ++n) {
      layers.push_back(n);
      deal(left - n);
      layers.pop_back();
    }
  };
  const std::function<void()> grow = [&] {
    deal(problem_.n_layers());
    for (std::uint32_t device = 0; device < problem_.n_devices(); ++device) {
      if (std::find(ring.begin(), ring.end(), device) != ring.end()) continue;
      ring.push_back(device);
      grow();
      ring.pop_back();
    }
  };
  grow();
  std::stable_sort(all.begin(), all.end(), [](const Sized& a, const Sized& b) {
    return a.relaxed_seconds < b.relaxed_seconds;
  });
  for (const Sized& sized : all) {
    if (sized.relaxed_seconds >= best_.seconds * (1 - kLeastGain) || spent()) break;
    remember(judge(sized, best_.seconds));
  }
}

std::uint32_t Search::most_rounds() const {
  const std::uint32_t asked = problem_.request.max_rounds;
  return asked > 0 ? std::min(asked, problem_.n_layers()) : problem_.n_layers();
}

void Search::improve() {
  const std::vector<Found> starts = top_;
  // What candidates have used is not counted against the descents; each gets its part.
  const std::uint64_t part = max_work_ / std::max<std::size_t>(1, starts.size());
  for (const Found& start : starts) {
    max_work_ = evaluation_.work() + part;
    remember(descend(start));
  }
}

Search::Found Search::descend(Found from) {
  while (!spent() && (step(from) || tune_slots(from))) {
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
    const Found found = judge(candidate, target, &from.decision);
    if (found.seconds < target) {
      from = found;
      return true;
    }
    if (candidate.excess_bytes > 0 || spent()) return false;  // the least excess is no better
  }
  return false;
}

// The value of a sized decision with wider slots too, where it streams, and slots tuned where that
// may bring it below `target`.
Search::Found Search::judge(const Sized& candidate, double target, const Decision* before) {
  // Beyond what is worth tuning it does not matter how much.
  const double limit = target * (small_ ? kWorthTuningSmall : kWorthTuning);
  Found best{candidate.decision, value(candidate, limit)};
  if (candidate.excess_bytes > 0 || (best.seconds >= limit && !small_)) return best;
  std::vector<Decision> others{evaluation_.size(candidate.decision, 1).decision,
                               evaluation_.size(candidate.decision, 3).decision};
  if (small_) {
    for (const double share : {0.0, 0.5, 1.0}) {
      others.push_back(with_slots(candidate.decision, share));
    }
    if (before != nullptr) others.push_back(with_slots_of(*before, candidate.decision));
  }
  for (const Decision& other : others) {
    if (spent()) return best;
    if (other == candidate.decision) continue;
    const double seconds = evaluation_.simulate(other, best.seconds);
    if (seconds < best.seconds) best = {other, seconds};
  }
  if (best.seconds >= target && best.seconds < limit) tune_slots(best);
  return best;
}

// The slots that each device had in `before`, where it streamed then and still does.
Decision Search::with_slots_of(const Decision& before, Decision decision) const {
  for (Share& share : decision.ring) {
    for (const Share& was : before.ring) {
      if (was.device == share.device && was.slot_bytes > 0 && share.slot_bytes > 0) {
        share.slot_bytes = was.slot_bytes;
      }
    }
  }
  return decision;
}

// Slots between the fewest (0) and all the memory that KV cache leaves (1), where anything streams.
Decision Search::with_slots(Decision decision, double share_of_room) const {
  for (std::size_t i = 0; i < decision.ring.size(); ++i) {
    Bytes& slots = decision.ring[i].slot_bytes;
    if (slots == 0) continue;
    const Load load = load_of(problem_, decision, i, windows_at(problem_, decision, i));
    const double room =
        capacity_of(problem_, decision.ring[i].device).budget_bytes - load.fixed_bytes;
    const auto grids = static_cast<Bytes>(share_of_room * room) / problem_.slot_grid;
    slots = std::max(problem_.min_slots, grids * problem_.slot_grid);
  }
  return decision;
}

bool Search::tune_slots(Found& from) {
  if (from.seconds >= kNothing) return false;
  bool improved = false;
  for (std::size_t i = 0; i < from.decision.ring.size(); ++i) {
    if (from.decision.ring[i].slot_bytes == 0) continue;
    for (const std::int64_t grids : {1, -1, 2, -2, 4, -4, 8, -8, 12, -12, 16, -16, 32, -32}) {
      if (spent()) return improved;
      Decision changed = from.decision;
      const auto slots = static_cast<std::int64_t>(changed.ring[i].slot_bytes) +
                         grids * static_cast<std::int64_t>(problem_.slot_grid);
      if (slots < static_cast<std::int64_t>(problem_.min_slots)) continue;
      changed.ring[i].slot_bytes = static_cast<Bytes>(slots);
      const double target = from.seconds * (1 - kLeastGain);
      const double seconds = evaluation_.simulate(changed, target);
      if (seconds >= target) continue;
      from = {changed, seconds};
      improved = true;
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
      const double target = from.seconds * (1 - kLeastFormatGain);
      const double seconds = evaluation_.simulate(changed, target);
      if (seconds >= target) continue;
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
        fill_gpus(problem_, moved, from);
        fill_gpus(problem_, moved, to);
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
      for (std::size_t to = 0; to < share.gpu_layers.size(); ++to) {
        for (std::uint32_t count = 1; to != gpu && count <= share.gpu_layers[gpu]; count *= 2) {
          Decision shifted = decision;
          shifted.ring[i].gpu_layers[gpu] -= count;
          shifted.ring[i].gpu_layers[to] += count;
          into.push_back(std::move(shifted));
        }
      }
    }
    // The output layer goes elsewhere, and layers make room for it or take its place.
    for (int gpu = -1; i == 0 && gpu < static_cast<int>(share.gpu_layers.size()); ++gpu) {
      if (gpu == share.output_gpu) continue;
      Decision changed = decision;
      fill_gpus(problem_, changed, 0, gpu);
      into.push_back(std::move(changed));
    }
  }
}

void Search::add_round_moves(const Decision& decision, std::vector<Decision>& into) const {
  if (decision.ring.size() == 1) return;
  const std::uint32_t most = most_rounds();
  const std::uint32_t k = decision.rounds;
  for (const std::uint32_t rounds : {k - 1, k + 1, k / 2, k * 2}) {
    if (rounds < 1 || rounds > most || rounds == k) continue;
    Decision changed = decision;
    changed.rounds = rounds;
    for (std::size_t i = 0; i < changed.ring.size(); ++i) fill_gpus(problem_, changed, i);
    into.push_back(std::move(changed));
  }
}

}  // namespace prima::plan

// The neighbours of a decision: layers, devices, GPU layers and rounds moved by one step.
#include <algorithm>
#include <numeric>

#include "plan/gpu_fill.h"
#include "plan/search.h"

namespace prima::plan {
namespace {

// In large rings only so many donors and takers of a layer are tried, those where it matters most.
constexpr std::size_t kMaxPartners = 6;

}  // namespace

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
      fill_gpus(problem_, changed, 0, {.output = gpu});
      into.push_back(std::move(changed));
    }
    // Room for prompts instead of layers, or layers instead.
    for (const PromptRoom room : rooms_at(share)) {
      if (room == share.room) continue;
      Decision changed = decision;
      fill_gpus(problem_, changed, i, {.room = room});
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
    // What fits the GPUs may differ; or one does without room for prompts, and the others stay.
    for (std::size_t i = 0; i < changed.ring.size(); ++i) {
      if (!changed.ring[i].room) continue;
      Decision without_room = changed;
      fill_gpus(problem_, without_room, i, {.room = PromptRoom{}});
      into.push_back(std::move(without_room));
    }
    for (std::size_t i = 0; i < changed.ring.size(); ++i) fill_gpus(problem_, changed, i);
    into.push_back(std::move(changed));
  }
}

}  // namespace prima::plan

// Search::consider_all: small clusters looked at completely.
#include <algorithm>
#include <cmath>

#include "plan/gpu_fill.h"
#include "plan/search.h"

namespace prima::plan {
namespace {

// Up to so many are all looked at: two devices with 60 layers, or three with 12.
constexpr double kMaxStructures = 4000;
// ... and with every way to use their GPUs, if that makes no more than this.
constexpr double kMaxDecisions = 60000;

}  // namespace

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
  for (const auto& rooms : problem_.rooms) product *= 1 + static_cast<double>(rooms.size());
  return product * static_cast<double>(1 + problem_.vram_budget[problem_.cluster.head].size());
}

// None among them.
std::vector<PromptRoom> Search::rooms_at(const Share& share) const {
  std::vector<PromptRoom> rooms = problem_.rooms[share.device];
  rooms.emplace_back();
  return rooms;
}

// All numbers of layers on each GPU, rooms for prompts and places of the output layer, or the
// filled ones and other rooms beside them.
void Search::for_each_offload(Decision& decision, bool every,
                              const std::function<void(const Decision&)>& visit) const {
  if (!every) {
    for (std::size_t i = 0; i < decision.ring.size(); ++i) fill_gpus(problem_, decision, i);
    visit(decision);
    for (std::size_t i = 0; i < decision.ring.size(); ++i) {
      for (const PromptRoom room : rooms_at(decision.ring[i])) {
        if (room == decision.ring[i].room) continue;
        Decision other = decision;
        fill_gpus(problem_, other, i, {.room = room});
        visit(other);
      }
    }
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
          const auto next = [&] {
            choose(i + 1, 0, i + 1 < decision.ring.size() ? decision.ring[i + 1].n_layers : 0);
          };
          next();
          for (const PromptRoom room : problem_.rooms[share.device]) {
            share.room = room;
            if (left > 0) next();  // the processor has layers
          }
          share.room = {};
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

}  // namespace prima::plan

#include "paper_halda.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

namespace prima::bench {
namespace {

using plan::ClassBytes;
using plan::Problem;
using plan::StepCosts;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Sets and windows settle in a few turns or go round in circles.
constexpr int kMaxTurns = 30;

enum class Set { m1, m2, m3, m4 };

struct Device {
  std::size_t index = 0;
  Set set = Set::m4;
  bool forced_m4 = false;
};

struct Windows {
  std::uint32_t rounds = 1;
  std::vector<std::uint32_t> layers;      // per round, by position
  std::vector<std::uint32_t> gpu_layers;  // of them
  double objective_seconds = kInfinity;
};

class PaperHalda {
 public:
  explicit PaperHalda(const Problem& problem) : problem_(problem) {
    // All layers alike, as in the paper.
    double bytes = 0;
    double kv = 0;
    for (const std::uint16_t layer : problem.shape.layers) {
      bytes += static_cast<double>(problem.classes[layer].weights());
      kv += static_cast<double>(problem.classes[layer].kv);
    }
    layer_bytes_ = bytes / problem.n_layers();
    kv_bytes_ = kv / problem.n_layers();
  }

  std::optional<Windows> solve(std::vector<Device> devices) const {
    assign_sets_by_memory(devices);
    std::optional<Windows> best;
    for (int turn = 0; turn < kMaxTurns; ++turn) {
      std::optional<Windows> found;
      for (std::uint32_t rounds = 1; rounds <= problem_.n_layers(); ++rounds) {
        if (problem_.n_layers() % rounds != 0) continue;
        auto windows = solve_fixed(devices, rounds);
        if (windows && (!found || windows->objective_seconds < found->objective_seconds)) {
          found = std::move(windows);
        }
      }
      if (!found) {  // the sets contradict each other: let one device overflow again
        if (!release_one(devices)) return best;
        continue;
      }
      if (!best || found->objective_seconds < best->objective_seconds) best = found;
      if (calibrate(devices, *found)) continue;
      if (!update_sets(devices, *found)) return best;
    }
    return best;
  }

 private:
  double mean_seconds(std::size_t device, int gpu) const {
    const StepCosts::Device& costs = problem_.decode.devices[device];
    double sum = 0;
    for (const std::uint16_t layer : problem_.shape.layers) {
      sum += gpu < 0 ? costs.processor(plan::Weights::unbudgeted).seconds[layer]
                     : costs.gpu_seconds[gpu][layer];
    }
    return sum / problem_.n_layers();
  }

  bool unified(std::size_t device) const { return problem_.cluster.devices[device].unified_memory; }

  std::uint32_t most_gpu_layers(std::size_t device) const {
    double vram = 0;
    for (const Bytes bytes : problem_.vram_budget[device]) vram += static_cast<double>(bytes);
    return static_cast<std::uint32_t>(vram / (layer_bytes_ + kv_bytes_));
  }

  // Memory that `layers` layers, `on_gpu` of them in VRAM, want on the CPU's side.
  double wanted_bytes(const Device& device, bool is_head, std::uint32_t layers,
                      std::uint32_t on_gpu) const {
    const std::uint32_t here = unified(device.index) ? layers : layers - on_gpu;
    double bytes = here * (layer_bytes_ + kv_bytes_);
    if (is_head) bytes += static_cast<double>(problem_.shape.output_bytes);
    return bytes;
  }

  bool fits(const Device& device, bool is_head, std::uint32_t layers, std::uint32_t on_gpu) const {
    return wanted_bytes(device, is_head, layers, on_gpu) <=
           static_cast<double>(problem_.budget[device.index]);
  }

  Set short_set(const Device& device) const {
    if (!unified(device.index)) return Set::m3;
    return problem_.vram_budget[device.index].empty() ? Set::m1 : Set::m2;
  }

  // The start: layers in proportion to memory.
  void assign_sets_by_memory(std::vector<Device>& devices) const {
    const auto memory = [&](const Device& device) {
      double bytes = static_cast<double>(problem_.budget[device.index]);
      if (!unified(device.index)) {
        for (const Bytes vram : problem_.vram_budget[device.index]) {
          bytes += static_cast<double>(vram);
        }
      }
      return bytes;
    };
    double sum = 0;
    for (const Device& device : devices) sum += memory(device);
    for (std::size_t i = 0; i < devices.size(); ++i) {
      const auto layers =
          static_cast<std::uint32_t>(problem_.n_layers() * memory(devices[i]) / sum + 0.5);
      const std::uint32_t on_gpu = std::min(layers, most_gpu_layers(devices[i].index));
      devices[i].set = fits(devices[i], i == 0, layers, on_gpu) ? Set::m4 : short_set(devices[i]);
    }
  }

  // The paper's cost of a device's layers for one token; infinite where its set forbids them.
  double cost(const Device& device, bool is_head, std::uint32_t layers,
              std::uint32_t* gpu_layers) const {
    const double cpu = mean_seconds(device.index, -1);
    double gpu = kInfinity;
    for (std::size_t i = 0; i < problem_.vram_budget[device.index].size(); ++i) {
      gpu = std::min(gpu, mean_seconds(device.index, static_cast<int>(i)));
    }
    const std::uint32_t on_gpu = gpu < cpu ? std::min(layers, most_gpu_layers(device.index)) : 0;
    if (gpu_layers != nullptr) *gpu_layers = on_gpu;
    const bool all_fit = fits(device, is_head, layers, on_gpu);
    if (all_fit != (device.set == Set::m4)) return kInfinity;

    double seconds = (layers - on_gpu) * cpu + (on_gpu > 0 ? on_gpu * gpu : 0);
    if (is_head)
      seconds +=
          problem_.decode.devices[device.index].processor(plan::Weights::unbudgeted).seconds.back();
    if (device.set == Set::m4) return seconds;
    const double disk = problem_.cluster.devices[device.index].disk_read_bytes_per_second;
    if (disk <= 0) return kInfinity;
    const double output = is_head ? static_cast<double>(problem_.shape.output_bytes) : 0;
    const double read = device.set == Set::m3
                            ? wanted_bytes(device, is_head, layers, on_gpu) -
                                  static_cast<double>(problem_.budget[device.index])
                            : layers * layer_bytes_ + output;
    return seconds + read / disk;
  }

  double hop_seconds(const std::vector<Device>& devices) const {
    double sum = 0;
    for (std::size_t i = 0; devices.size() > 1 && i < devices.size(); ++i) {
      sum +=
          problem_.hop(problem_.decode, devices[i].index, devices[(i + 1) % devices.size()].index)
              .total_seconds(plan::LinkFormat::f32);
    }
    return sum;
  }

  // The integer program for given sets and rounds: at least one layer each, windows that sum to
  // L / k, least total cost.
  std::optional<Windows> solve_fixed(const std::vector<Device>& devices,
                                     std::uint32_t rounds) const {
    const std::uint32_t total = problem_.n_layers() / rounds;
    if (devices.size() > total) return std::nullopt;
    std::vector<double> least(total + 1, kInfinity);
    least[0] = 0;
    std::vector<std::vector<std::uint32_t>> choice;
    for (std::size_t i = 0; i < devices.size(); ++i) {
      std::vector<double> after(total + 1, kInfinity);
      auto& chosen = choice.emplace_back(total + 1, 0);
      for (std::uint32_t window = 1; window <= total; ++window) {
        const double seconds = cost(devices[i], i == 0, window * rounds, nullptr);
        for (std::uint32_t sum = window; seconds < kInfinity && sum <= total; ++sum) {
          const double with = least[sum - window] + seconds;
          if (with >= after[sum]) continue;
          after[sum] = with;
          chosen[sum] = window;
        }
      }
      least = std::move(after);
    }
    if (least[total] == kInfinity) return std::nullopt;
    Windows windows;
    windows.rounds = rounds;
    windows.objective_seconds = least[total] + rounds * hop_seconds(devices);
    windows.layers.resize(devices.size());
    windows.gpu_layers.resize(devices.size());
    std::uint32_t left = total;
    for (std::size_t i = devices.size(); i-- > 0;) {
      windows.layers[i] = choice[i][left];
      left -= windows.layers[i];
      std::uint32_t on_gpu = 0;
      static_cast<void>(cost(devices[i], i == 0, windows.layers[i] * rounds, &on_gpu));
      windows.gpu_layers[i] = on_gpu / rounds;
    }
    return windows;
  }

  // True if a device was forced into M4.
  bool calibrate(std::vector<Device>& devices, const Windows& windows) const {
    bool spare = false;
    Device* slowest = nullptr;
    for (std::size_t i = 0; i < devices.size(); ++i) {
      Device& device = devices[i];
      if (device.set == Set::m4) {
        const std::uint32_t used = windows.gpu_layers[i] * windows.rounds;
        spare = spare || (most_gpu_layers(device.index) > used && !unified(device.index));
        continue;
      }
      const auto disk = [&](const Device& one) {
        return problem_.cluster.devices[one.index].disk_read_bytes_per_second;
      };
      if (slowest == nullptr || disk(device) < disk(*slowest)) slowest = &device;
    }
    if (!spare || slowest == nullptr || slowest->forced_m4) return false;
    slowest->set = Set::m4;
    slowest->forced_m4 = true;
    return true;
  }

  bool update_sets(std::vector<Device>& devices, const Windows& windows) const {
    // Sets bind the windows found, so what could change is found from the neighbouring windows:
    // a device at the edge of its set goes to the other where that is cheaper.
    std::optional<std::size_t> better;
    double least = windows.objective_seconds;
    for (std::size_t i = 0; i < devices.size(); ++i) {
      if (devices[i].forced_m4) continue;
      std::vector<Device> tried = devices;
      tried[i].set = devices[i].set == Set::m4 ? short_set(devices[i]) : Set::m4;
      for (std::uint32_t rounds = 1; rounds <= problem_.n_layers(); ++rounds) {
        if (problem_.n_layers() % rounds != 0) continue;
        const auto other = solve_fixed(tried, rounds);
        if (!other || other->objective_seconds >= least) continue;
        least = other->objective_seconds;
        better = i;
      }
    }
    if (!better) return false;
    Device& device = devices[*better];
    device.set = device.set == Set::m4 ? short_set(device) : Set::m4;
    return true;
  }

  bool release_one(std::vector<Device>& devices) const {
    Device* fastest = nullptr;
    for (Device& device : devices) {
      if (device.set != Set::m4) continue;
      const auto disk = [&](const Device& one) {
        return problem_.cluster.devices[one.index].disk_read_bytes_per_second;
      };
      if (fastest == nullptr || disk(device) > disk(*fastest)) fastest = &device;
    }
    if (fastest == nullptr) return false;
    fastest->set = short_set(*fastest);
    return true;
  }

  const Problem& problem_;
  double layer_bytes_ = 0;
  double kv_bytes_ = 0;
};

plan::Decision decision_of(const Problem& problem, const std::vector<Device>& devices,
                           const Windows& windows) {
  plan::Decision decision;
  decision.rounds = windows.rounds;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    plan::Share& share = decision.ring.emplace_back();
    share.device = static_cast<std::uint32_t>(devices[i].index);
    share.n_layers = windows.layers[i] * windows.rounds;
    share.gpu_layers.assign(problem.vram_budget[devices[i].index].size(), 0);
    if (!share.gpu_layers.empty()) share.gpu_layers[0] = windows.gpu_layers[i] * windows.rounds;
  }
  decision.hop_formats.assign(devices.size(), plan::LinkFormat::f32);
  return decision;
}

}  // namespace

std::optional<PaperPlan> paper_halda(const Problem& problem) {
  const PaperHalda halda(problem);
  std::vector<Device> devices{{problem.cluster.head, Set::m4, false}};
  for (std::size_t i = 0; i < problem.n_devices(); ++i) {
    if (i != problem.cluster.head) devices.push_back({i, Set::m4, false});
  }
  auto best = halda.solve(devices);
  // Device removal: without one that has a single layer, as long as that is no worse.
  for (bool removed = true; removed && devices.size() > 1;) {
    removed = false;
    for (std::size_t i = 1; i < devices.size(); ++i) {
      if (best && best->layers[i] * best->rounds > 1) continue;
      std::vector<Device> fewer = devices;
      fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(i));
      auto without = halda.solve(fewer);
      if (!without || (best && without->objective_seconds > best->objective_seconds)) continue;
      best = std::move(without);
      devices = std::move(fewer);
      removed = true;
      break;
    }
  }
  if (!best) return std::nullopt;
  return PaperPlan{decision_of(problem, devices, *best), best->objective_seconds};
}

}  // namespace prima::bench

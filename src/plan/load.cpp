#include "plan/load.h"

#include <algorithm>

#include "plan/infinity.h"

namespace prima::plan {
namespace {

double overflow_bytes(const Load& load, const Capacity& capacity) {
  return load.weight_bytes() + load.fixed_bytes - capacity.budget_bytes;
}

// Bytes read for a token where `streamed` bytes of weights stay on disk.
double read_of(const Load& load, const Capacity& capacity, double streamed) {
  const double experts = std::min(streamed, load.cpu_expert_bytes);
  return experts * capacity.expert_ratio + (streamed - experts);
}

// The inverse: how many bytes may stay on disk for `read` to be enough.
double streamed_of(const Load& load, const Capacity& capacity, double read) {
  const double all_experts = load.cpu_expert_bytes * capacity.expert_ratio;
  if (read < all_experts) return read / capacity.expert_ratio;
  return load.cpu_expert_bytes + (read - all_experts);
}

// As the layout will have them (weights_of in layout.h).
Weights weights_of(const Problem& problem, std::size_t device, const Load& load) {
  const double held = load.weight_bytes() + load.fixed_bytes;
  return problem.weights_of(device, held > static_cast<double>(problem.budget[device]), held);
}

double gpu_copies(const StepCosts::Device& costs, const std::vector<Window>& windows) {
  double seconds = 0;
  for (const Window& window : windows) {
    for (std::size_t gpu = 0; gpu < window.gpu_layers.size(); ++gpu) {
      if (window.gpu_layers[gpu] > 0) seconds += costs.gpu_copy_seconds[gpu];
    }
  }
  return seconds;
}

}  // namespace

Capacity capacity_of(const Problem& problem, std::size_t device) {
  Capacity capacity;
  capacity.budget_bytes = static_cast<double>(problem.budget[device]);
  capacity.disk_bytes_per_second = problem.cluster.devices[device].disk_read_bytes_per_second;
  capacity.min_slot_bytes = static_cast<double>(problem.min_slots);
  for (const double ratio : problem.decode.expert_ratio) {
    capacity.expert_ratio = std::min(capacity.expert_ratio, ratio);
  }
  return capacity;
}

Load load_of(const Problem& problem, const Decision& decision, std::size_t position,
             const std::vector<Window>& windows) {
  const Share& share = decision.ring[position];
  const std::size_t n_gpus = share.gpu_layers.size();
  // How many layers of each class each backend has, the processor last.
  const std::size_t n_classes = problem.classes.size();
  std::vector<std::uint32_t> counts((n_gpus + 1) * n_classes, 0);
  double processor_runs = 0;
  for (const Window& window : windows) {
    std::uint32_t layer = window.first_layer;
    const std::uint32_t end = layer + window.n_layers;
    for (std::size_t gpu = 0; gpu < window.gpu_layers.size(); ++gpu) {
      for (std::uint32_t i = 0; i < window.gpu_layers[gpu]; ++i) {
        ++counts[gpu * n_classes + problem.shape.layers[layer++]];
      }
    }
    processor_runs += layer < end;
    while (layer < end) ++counts[n_gpus * n_classes + problem.shape.layers[layer++]];
  }
  const bool runs_output = position == 0 && problem.classes.back().dense > 0;
  const std::size_t output_backend =
      share.output_gpu < 0 ? n_gpus : static_cast<std::size_t>(share.output_gpu);
  if (runs_output) ++counts[output_backend * n_classes + problem.output_class()];

  Load load;
  const bool unified = problem.cluster.devices[share.device].unified_memory;
  for (std::size_t backend = 0; backend <= n_gpus; ++backend) {
    double vram = 0;
    for (std::size_t c = 0; c < n_classes; ++c) {
      const double count = counts[backend * n_classes + c];
      const ClassBytes& bytes = problem.classes[c];
      if (backend < n_gpus) {
        vram += count * static_cast<double>(bytes.weights() + bytes.kv);
        continue;
      }
      load.cpu_layers += count;
      load.cpu_dense_bytes += count * static_cast<double>(bytes.dense);
      load.cpu_expert_bytes += count * static_cast<double>(bytes.experts);
      load.fixed_bytes += count * static_cast<double>(bytes.kv);
    }
    if (backend == n_gpus) continue;
    if (unified) load.fixed_bytes += vram;
    const bool has_room = share.room.gpu == static_cast<int>(backend);
    if (has_room) vram += static_cast<double>(problem.bytes_of(share.room));
    const auto budget = static_cast<double>(problem.vram_budget[share.device][backend]);
    load.vram_excess_bytes += std::max(0.0, vram - budget);
  }

  const Weights weights = weights_of(problem, share.device, load);
  const auto kinds = problem.kinds();
  for (std::size_t kind = 0; kind < kinds.size(); ++kind) {
    const StepCosts::Device& costs = kinds[kind]->devices[share.device];
    const StepCosts::Device::Processor& processor = costs.processor(weights, share.room);
    double seconds = gpu_copies(costs, windows) + processor_runs * processor.run_seconds;
    if (runs_output && share.output_gpu >= 0) seconds += costs.gpu_copy_seconds[share.output_gpu];
    for (std::size_t backend = 0; backend <= n_gpus; ++backend) {
      const std::vector<double>& by_class =
          backend < n_gpus ? costs.gpu_seconds[backend] : processor.seconds;
      for (std::size_t c = 0; c < n_classes; ++c) {
        const std::uint32_t count = counts[backend * n_classes + c];
        if (count > 0) seconds += count * by_class[c];
      }
    }
    load.compute_seconds[kind] = seconds;
  }
  return load;
}

double read_bytes(const Load& load, const Capacity& capacity, double slot_bytes) {
  const double over = overflow_bytes(load, capacity);
  return over <= 0 ? 0 : read_of(load, capacity, over + slot_bytes);
}

double prompt_read_bytes(const Load& load, const Capacity& capacity) {
  const double over = overflow_bytes(load, capacity);
  if (over <= 0) return 0;
  // Falls with the slots, which fill before the prompt: all the room there is.
  const double room = std::max(0.0, capacity.budget_bytes - load.fixed_bytes);
  return std::max(0.0, read_of(load, capacity, over + room) - room);
}

double excess_bytes(const Load& load, const Capacity& capacity) {
  const double over = overflow_bytes(load, capacity);
  if (over <= 0) return load.vram_excess_bytes;
  if (capacity.disk_bytes_per_second <= 0) return load.vram_excess_bytes + over;
  const double least = load.fixed_bytes + capacity.min_slot_bytes;
  return load.vram_excess_bytes + std::max(0.0, least - capacity.budget_bytes);
}

double most_slots(const Load& load, const Capacity& capacity, double period_seconds) {
  const double room = capacity.budget_bytes - load.fixed_bytes;
  if (period_seconds == kInfinity) return room;
  const double streamed =
      streamed_of(load, capacity, period_seconds * capacity.disk_bytes_per_second);
  return std::min(room, streamed - overflow_bytes(load, capacity));
}

double turn_seconds(const Load& load, const Capacity& capacity, double rounds,
                    double period_seconds) {
  if (load.vram_excess_bytes > 0) return kInfinity;
  if (overflow_bytes(load, capacity) <= 0) return load.compute_seconds[0];
  if (capacity.disk_bytes_per_second <= 0) return kInfinity;
  const double slots = most_slots(load, capacity, period_seconds);
  if (slots < capacity.min_slot_bytes) return kInfinity;
  return turn_seconds_with(load, capacity, rounds, slots);
}

double turn_seconds_with(const Load& load, const Capacity& capacity, double rounds,
                         double slot_bytes) {
  const double compute = load.compute_seconds[0];
  if (overflow_bytes(load, capacity) <= 0) return compute;
  const double windows = std::min(rounds, load.cpu_layers);
  const double exposed = read_bytes(load, capacity, slot_bytes) - windows * slot_bytes;
  return std::max(compute, exposed / capacity.disk_bytes_per_second);
}

double wanted_slots(const Load& load, const Capacity& capacity, double rounds,
                    double period_seconds) {
  if (overflow_bytes(load, capacity) <= 0) return 0;
  const double most = std::max(capacity.min_slot_bytes, most_slots(load, capacity, period_seconds));
  const double hidden = load.compute_seconds[0] * capacity.disk_bytes_per_second;
  const double windows = std::min(rounds, load.cpu_layers);
  // read_bytes(c) - windows * c falls with c; find where it meets what computing hides.
  double low = capacity.min_slot_bytes;
  double high = most;
  for (int i = 0; i < 40 && high - low > 1; ++i) {
    const double middle = (low + high) / 2;
    const bool enough = read_bytes(load, capacity, middle) - windows * middle <= hidden;
    (enough ? high : low) = middle;
  }
  return high;
}

}  // namespace prima::plan

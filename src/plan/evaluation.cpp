#include "plan/evaluation.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace prima::plan {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The least period T with the sum of turns at T, plus hops, no more than T.
double least_period(const std::vector<Load>& loads, const std::vector<Capacity>& capacities,
                    double rounds, double hops_seconds) {
  const auto sum_at = [&](double period) {
    double sum = hops_seconds;
    for (std::size_t i = 0; i < loads.size(); ++i) {
      sum += turn_seconds(loads[i], capacities[i], rounds, period);
    }
    return sum;
  };
  double low = sum_at(kInfinity);
  if (low == kInfinity) return kInfinity;
  if (sum_at(low) <= low * (1 + 1e-12)) return low;
  double high = low;
  do high *= 2;
  while (sum_at(high) > high);
  low = high / 2;
  while (high - low > 1e-5 * high) {
    const double middle = (low + high) / 2;
    (sum_at(middle) <= middle ? high : low) = middle;
  }
  return high;
}

}  // namespace

Evaluation::Evaluation(const Problem& problem) : problem_(problem), kinds_(problem.kinds()) {
  for (std::size_t device = 0; device < problem.n_devices(); ++device) {
    capacities_.push_back(capacity_of(problem, device));
  }
}

Sized Evaluation::size(Decision decision, std::uint32_t margin) const {
  const auto windows = windows_of(problem_, decision);
  std::vector<Load> loads;
  std::vector<Capacity> capacities;
  Sized sized;
  for (std::size_t i = 0; i < decision.ring.size(); ++i) {
    loads.push_back(load_of(problem_, decision, i, windows[i]));
    capacities.push_back(capacities_[decision.ring[i].device]);
    sized.excess_bytes += plan::excess_bytes(loads[i], capacities[i]);
  }
  if (sized.excess_bytes > 0) {
    sized.decision = std::move(decision);
    sized.relaxed_seconds = sized.period_seconds = kInfinity;
    return sized;
  }
  const double rounds = decision.rounds;
  const double hops = hops_seconds(decision, problem_.decode);
  sized.period_seconds = least_period(loads, capacities, rounds, hops);
  const auto grid = static_cast<double>(problem_.slot_grid);
  for (std::size_t i = 0; i < loads.size(); ++i) {
    const double wanted = wanted_slots(loads[i], capacities[i], rounds, sized.period_seconds);
    if (wanted <= 0) {
      decision.ring[i].slot_bytes = 0;
      continue;
    }
    const double room =
        std::floor((capacities[i].budget_bytes - loads[i].fixed_bytes) / grid) * grid;
    const double slots = std::min(room, std::ceil(wanted / grid - 1e-9) * grid + margin * grid);
    decision.ring[i].slot_bytes = static_cast<Bytes>(slots);
    if (slots < capacities[i].min_slot_bytes) sized.excess_bytes += capacities[i].min_slot_bytes;
  }
  sized.relaxed_seconds =
      sized.excess_bytes > 0 ? kInfinity : relaxed_objective(decision, loads, sized.period_seconds);
  sized.decision = std::move(decision);
  return sized;
}

double Evaluation::relaxed_objective(const Decision& decision, const std::vector<Load>& loads,
                                     double period_seconds) const {
  const Objective objective = problem_.request.objective;
  if (objective == Objective::tpot) return period_seconds;
  double best = kInfinity;  // of the ways to cut the prompt, or the sequences, into steps
  for (std::size_t kind = 1; kind < kinds_.size(); ++kind) {
    const StepCosts& costs = *kinds_[kind];
    double path = 0;
    double busiest = 0;
    double disk = 0;
    for (std::size_t i = 0; i < loads.size(); ++i) {
      path += loads[i].compute_seconds[kind];
      busiest = std::max(busiest, costs.steps * loads[i].compute_seconds[kind]);
      const Capacity& capacity = capacities_[decision.ring[i].device];
      if (capacity.disk_bytes_per_second <= 0) continue;
      const double read = objective == Objective::throughput
                              ? read_bytes(loads[i], capacity, capacity.min_slot_bytes)
                              : prompt_read_bytes(loads[i], capacity);
      disk = std::max(disk, read / capacity.disk_bytes_per_second);
    }
    path += hops_seconds(decision, costs);
    if (objective == Objective::throughput) {
      const double period = std::max({path, busiest, disk});
      best = std::min(best, period / problem_.request.sequences);
    } else {
      best = std::min(best, std::max({path, busiest, disk}));
    }
  }
  if (objective == Objective::answer) best += problem_.request.answer_tokens * period_seconds;
  return best;
}

double Evaluation::hops_seconds(const Decision& decision, const StepCosts& costs) const {
  const std::size_t n = decision.ring.size();
  double sum = 0;
  for (std::size_t i = 0; n > 1 && i < n; ++i) {
    sum += problem_.hop(costs, decision.ring[i].device, decision.ring[(i + 1) % n].device)
               .total_seconds(decision.hop_formats[i]);
  }
  return sum * decision.rounds;
}

// What a prompt takes at least: every step passes every device, every device computes every step,
// and a disk reads a window's pieces once or, where the slots can't hold them, once for each step.
double Evaluation::least_prompt(const SimulatedRing& ring) const {
  double path = 0;
  double busiest = 0;
  for (const SimulatedDevice& device : ring.devices) {
    double compute = 0;
    double read = 0;
    for (const auto& visit : device.visits) {
      double bytes = 0;
      for (const SimulatedItem& item : visit) {
        compute += item.compute_seconds;
        bytes += static_cast<double>(item.read_bytes);
      }
      const bool holds = bytes <= static_cast<double>(device.slot_bytes);
      read += holds ? bytes : bytes * ring.steps;
    }
    path += compute;
    busiest = std::max(busiest, compute * ring.steps);
    // The output layer is computed once, for the last step.
    if (&device == &ring.devices.front() && ring.steps > 1) {
      for (const SimulatedItem& item : device.visits.back()) {
        busiest -= item.compute_seconds * (ring.steps - 1);
        read -= static_cast<double>(item.read_bytes) * (ring.steps - 1);
      }
      busiest = std::max(busiest, 0.0);
    }
    const double exposed = read - static_cast<double>(device.slot_bytes);
    if (exposed > 0) busiest = std::max(busiest, exposed / device.disk_bytes_per_second);
  }
  return std::max(path, busiest);
}

double Evaluation::best_prompt(const Decision& decision, const Layout& layout, double target,
                               std::uint32_t* steps) const {
  double best = kInfinity;
  for (const StepCosts& costs : problem_.prefill) {
    if (costs.steps > 1 && decision.ring.size() == 1) break;  // nothing to overlap
    const SimulatedRing ring = simulated_ring(problem_, decision, layout, costs);
    const double least = least_prompt(ring);
    const double seconds = least >= std::min(best, target) ? least : simulate_prompt(ring);
    if (seconds < best) {
      best = seconds;
      if (steps != nullptr) *steps = costs.steps;
    }
  }
  return best;
}

double Evaluation::best_batch(const Decision& decision, const Layout& layout, double target,
                              std::uint32_t* steps) const {
  double best = kInfinity;
  const double sequences = problem_.request.sequences;
  for (const StepCosts& costs : problem_.batch) {
    if (costs.steps > 1 && decision.ring.size() == 1) break;
    const SimulatedRing ring = simulated_ring(problem_, decision, layout, costs);
    const double least = least_period(ring) / sequences;
    const double seconds =
        least >= std::min(best, target) ? least : simulate_period(ring) / sequences;
    if (seconds < best) {
      best = seconds;
      if (steps != nullptr) *steps = costs.steps;
    }
  }
  return best;
}

double Evaluation::simulate_new(const Decision& decision, const Layout& layout,
                                double target) const {
  const auto tpot = [&] {
    return simulate_period(simulated_ring(problem_, decision, layout, problem_.decode));
  };
  switch (problem_.request.objective) {
    case Objective::tpot: return tpot();
    case Objective::ttft: return best_prompt(decision, layout, target, nullptr);
    case Objective::throughput: return best_batch(decision, layout, target, nullptr);
    case Objective::answer: {
      const double answer = problem_.request.answer_tokens * tpot();
      if (answer >= target) return answer;
      return answer + best_prompt(decision, layout, target - answer, nullptr);
    }
  }
  return kInfinity;
}

double Evaluation::simulate(const Decision& decision, double target) {
  Seen& seen = seen_.try_emplace(decision).first->second;
  if (seen.exact || seen.seconds >= target) return seen.seconds;
  seen.seconds = kInfinity;
  seen.exact = true;
  if (const auto layout = lay_out(problem_, decision)) {
    ++n_simulated_;
    work_ += decision.rounds * decision.ring.size();
    for (const DeviceLayout& device : layout->devices) work_ += device.segments.size();
    seen.seconds = simulate_new(decision, *layout, target);
    seen.exact = seen.seconds < target;
  }
  return seen.seconds;
}

Prediction Evaluation::predict(const Decision& decision, const Layout& layout) const {
  Prediction prediction;
  prediction.tpot_seconds =
      simulate_period(simulated_ring(problem_, decision, layout, problem_.decode));
  prediction.ttft_seconds = best_prompt(decision, layout, kInfinity, &prediction.prefill_steps);
  prediction.seconds_per_token = best_batch(decision, layout, kInfinity, &prediction.decode_steps);
  return prediction;
}

std::size_t Evaluation::Hash::operator()(const Decision& decision) const {
  std::uint64_t hash = 14695981039346656037ull;  // FNV-1a
  const auto mix = [&](std::uint64_t value) { hash = (hash ^ value) * 1099511628211ull; };
  mix(decision.rounds);
  for (const Share& share : decision.ring) {
    mix(share.device);
    mix(share.n_layers);
    mix(share.slot_bytes);
    mix(static_cast<std::uint64_t>(share.output_gpu + 1));
    mix(static_cast<std::uint64_t>(share.room.gpu + 1));
    mix(share.room.places);
    for (const std::uint32_t layers : share.gpu_layers) mix(layers);
  }
  for (const LinkFormat format : decision.hop_formats) mix(static_cast<std::uint64_t>(format));
  return hash;
}

}  // namespace prima::plan

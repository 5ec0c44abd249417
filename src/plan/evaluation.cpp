#include "plan/evaluation.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "plan/simulator.h"

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

double Evaluation::best_prompt(const Decision& decision, const Layout& layout,
                               std::uint32_t* steps) const {
  double best = kInfinity;
  for (const StepCosts& costs : problem_.prefill) {
    if (costs.steps > 1 && decision.ring.size() == 1) break;  // nothing to overlap
    const double seconds = simulate_prompt(simulated_ring(problem_, decision, layout, costs));
    if (seconds < best) {
      best = seconds;
      if (steps != nullptr) *steps = costs.steps;
    }
  }
  return best;
}

double Evaluation::best_batch(const Decision& decision, const Layout& layout,
                              std::uint32_t* steps) const {
  double best = kInfinity;
  for (const StepCosts& costs : problem_.batch) {
    if (costs.steps > 1 && decision.ring.size() == 1) break;
    const double seconds = simulate_period(simulated_ring(problem_, decision, layout, costs)) /
                           problem_.request.sequences;
    if (seconds < best) {
      best = seconds;
      if (steps != nullptr) *steps = costs.steps;
    }
  }
  return best;
}

double Evaluation::simulate(const Decision& decision) {
  if (const auto found = seen_.find(decision); found != seen_.end()) return found->second;
  double seconds = kInfinity;
  if (const auto layout = lay_out(problem_, decision)) {
    ++n_simulated_;
    const auto tpot = [&] {
      return simulate_period(simulated_ring(problem_, decision, *layout, problem_.decode));
    };
    switch (problem_.request.objective) {
      case Objective::tpot: seconds = tpot(); break;
      case Objective::ttft: seconds = best_prompt(decision, *layout, nullptr); break;
      case Objective::throughput: seconds = best_batch(decision, *layout, nullptr); break;
      case Objective::answer:
        seconds = best_prompt(decision, *layout, nullptr) + problem_.request.answer_tokens * tpot();
        break;
    }
  }
  seen_.emplace(decision, seconds);
  return seconds;
}

Prediction Evaluation::predict(const Decision& decision, const Layout& layout) const {
  Prediction prediction;
  prediction.tpot_seconds =
      simulate_period(simulated_ring(problem_, decision, layout, problem_.decode));
  prediction.ttft_seconds = best_prompt(decision, layout, &prediction.prefill_steps);
  prediction.seconds_per_token = best_batch(decision, layout, &prediction.decode_steps);
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
    for (const std::uint32_t layers : share.gpu_layers) mix(layers);
  }
  for (const LinkFormat format : decision.hop_formats) mix(static_cast<std::uint64_t>(format));
  return hash;
}

}  // namespace prima::plan

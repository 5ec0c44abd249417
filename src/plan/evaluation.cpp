#include "plan/evaluation.h"

#include <algorithm>
#include <cmath>

#include "plan/infinity.h"

namespace prima::plan {
namespace {

// The least period T with the sum of turns at T, plus hops, no more than T.
double relaxed_period(const std::vector<Load>& loads, const std::vector<Capacity>& capacities,
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
  sized.period_seconds = relaxed_period(loads, capacities, rounds, hops);
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
  sized.relaxed_seconds = sized.excess_bytes > 0
                              ? kInfinity
                              : relaxed_objective(decision, windows, loads, sized.period_seconds);
  sized.decision = std::move(decision);
  return sized;
}

double Evaluation::relaxed_objective(const Decision& decision,
                                     const std::vector<std::vector<Window>>& windows,
                                     const std::vector<Load>& loads, double period_seconds) const {
  const Objective objective = problem_.request.objective;
  if (objective == Objective::tpot) return period_seconds;
  double best = kInfinity;  // of the ways to cut the prompt, or the sequences, into steps
  for (std::size_t kind = 1; kind < kinds_.size(); ++kind) {
    const StepCosts& costs = *kinds_[kind];
    // One device computes a prompt's steps one after the other: cutting it gains nothing.
    if (objective != Objective::throughput && costs.steps > 1 && loads.size() == 1) break;
    double path = hops_seconds(decision, costs);
    double busiest = 0;  // of one step
    double disk = 0;
    for (std::size_t i = 0; i < loads.size(); ++i) {
      const double seconds = loads[i].compute_seconds[kind];
      path += seconds;
      busiest = std::max(busiest, seconds);
      const Capacity& capacity = capacities_[decision.ring[i].device];
      if (capacity.disk_bytes_per_second <= 0) continue;
      const double read = objective == Objective::throughput
                              ? read_bytes(loads[i], capacity, capacity.min_slot_bytes)
                              : prompt_read_bytes(loads[i], capacity);
      disk = std::max(disk, read / capacity.disk_bytes_per_second);
    }
    if (objective == Objective::throughput) {
      const double period = std::max({path, busiest * costs.steps, disk});
      best = std::min(best, period / problem_.request.sequences);
    } else {
      const double queue = queue_seconds(decision, windows, loads, kind, path);
      best = std::min(best, std::max({path, queue, disk}));
    }
  }
  if (objective == Objective::answer) best += problem_.request.answer_tokens * period_seconds;
  return best;
}

// What a prompt takes at least where steps wait for each other at a device, at the worst of them:
// the first step's way there in the first round, all steps there, the last one's way on in the last
// round.
double Evaluation::queue_seconds(const Decision& decision,
                                 const std::vector<std::vector<Window>>& windows,
                                 const std::vector<Load>& loads, std::size_t kind,
                                 double path_seconds) const {
  const StepCosts& costs = *kinds_[kind];
  const std::size_t n = loads.size();
  const double output = output_seconds(costs, decision.ring.front());  // once, for the last step
  const auto there = [&](std::size_t i) {
    return loads[i].compute_seconds[kind] - (i == 0 ? output : 0);
  };
  if (costs.steps == 1 || n == 1) return 0;
  double most = 0;
  if (decision.rounds == 1) {
    for (std::size_t i = 0; i < n; ++i) most = std::max(most, there(i));
    return path_seconds + (costs.steps - 1) * most;
  }
  const double hops = hops_seconds(decision, costs) / decision.rounds;
  double before = 0;
  double after = 0;
  for (std::size_t i = 0; i < n; ++i) {
    after += window_seconds(costs, decision.ring[i], windows[i].back());
  }
  for (std::size_t i = 0; i < n; ++i) {
    after -= window_seconds(costs, decision.ring[i], windows[i].back());
    most = std::max(most, before + costs.steps * there(i) + after);
    before += window_seconds(costs, decision.ring[i], windows[i].front());
  }
  return most + hops;  // some to get there, the others from there
}

// At least, of one step.
double Evaluation::window_seconds(const StepCosts& costs, const Share& share,
                                  const Window& window) const {
  const StepCosts::Device& device = costs.devices[share.device];
  const auto& processor = device.processor(Weights::either, share.room);
  const std::uint16_t* layer = problem_.shape.layers.data() + window.first_layer;
  const std::uint16_t* const end = layer + window.n_layers;
  double seconds = 0;
  for (std::size_t gpu = 0; gpu < window.gpu_layers.size(); ++gpu) {
    if (window.gpu_layers[gpu] > 0) seconds += device.gpu_copy_seconds[gpu];
    for (std::uint32_t i = 0; i < window.gpu_layers[gpu]; ++i) {
      seconds += device.gpu_seconds[gpu][*layer++];
    }
  }
  while (layer < end) seconds += processor.seconds[*layer++];
  return seconds;
}

// At most, of a step that has one.
double Evaluation::output_seconds(const StepCosts& costs, const Share& head) const {
  if (problem_.classes.back().dense == 0) return 0;
  const StepCosts::Device& device = costs.devices[head.device];
  if (head.output_gpu < 0) return device.processor(Weights::budgeted).seconds.back();
  return device.gpu_seconds[head.output_gpu].back() + device.gpu_copy_seconds[head.output_gpu];
}

double Evaluation::relaxed_with_its_slots(const Decision& decision) const {
  const auto windows = windows_of(problem_, decision);
  std::vector<Load> loads;
  double path = hops_seconds(decision, problem_.decode);
  double busiest_disk = 0;
  for (std::size_t i = 0; i < decision.ring.size(); ++i) {
    const Load& load = loads.emplace_back(load_of(problem_, decision, i, windows[i]));
    const Capacity& capacity = capacities_[decision.ring[i].device];
    const auto slots = static_cast<double>(decision.ring[i].slot_bytes);
    path += turn_seconds_with(load, capacity, decision.rounds, slots);
    if (slots == 0) continue;
    busiest_disk =
        std::max(busiest_disk, read_bytes(load, capacity, slots) / capacity.disk_bytes_per_second);
  }
  return relaxed_objective(decision, windows, loads, std::max(path, busiest_disk));
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

std::vector<Evaluation::Cut> Evaluation::cuts(const Decision& decision, const Layout& layout,
                                              const std::vector<StepCosts>& kinds,
                                              double (*least_seconds)(const SimulatedRing&)) const {
  std::vector<Cut> cuts;
  for (const StepCosts& costs : kinds) {
    if (costs.steps > 1 && decision.ring.size() == 1) break;  // nothing to overlap
    SimulatedRing ring = simulated_ring(problem_, decision, layout, costs);
    const double least = least_seconds(ring);
    cuts.push_back({std::move(ring), least});
  }
  std::stable_sort(cuts.begin(), cuts.end(),
                   [](const Cut& a, const Cut& b) { return a.least_seconds < b.least_seconds; });
  return cuts;
}

Evaluation::Best Evaluation::best_prompt(const std::vector<Cut>& cuts, double target) const {
  Best best;
  for (const Cut& cut : cuts) {
    const bool may_be_best = cut.least_seconds < std::min(best.seconds, target);
    const double seconds = may_be_best ? simulate_prompt(cut.ring) : cut.least_seconds;
    if (seconds < best.seconds) best = {seconds, cut.ring.steps};
  }
  return best;
}

Evaluation::Best Evaluation::best_batch(const std::vector<Cut>& cuts, double target) const {
  Best best;
  const double sequences = problem_.request.sequences;
  for (const Cut& cut : cuts) {
    const double least = cut.least_seconds / sequences;
    const bool may_be_best = least < std::min(best.seconds, target);
    const double seconds = may_be_best ? simulate_period(cut.ring) / sequences : least;
    if (seconds < best.seconds) best = {seconds, cut.ring.steps};
  }
  return best;
}

double Evaluation::simulate_new(const Decision& decision, const Layout& layout,
                                double target) const {
  const auto token = [&] { return simulated_ring(problem_, decision, layout, problem_.decode); };
  const auto prompts = [&] { return cuts(decision, layout, problem_.prefill, least_prompt); };
  switch (problem_.request.objective) {
    case Objective::tpot: return simulate_period(token());
    case Objective::ttft: return best_prompt(prompts(), target).seconds;
    case Objective::throughput:
      return best_batch(cuts(decision, layout, problem_.batch, least_period), target).seconds;
    case Objective::answer: return simulate_answer(token(), prompts(), target);
  }
  return kInfinity;
}

double Evaluation::simulate_answer(const SimulatedRing& token, const std::vector<Cut>& prompts,
                                   double target) const {
  const double tokens = problem_.request.answer_tokens;
  const double least_ttft = prompts.front().least_seconds;
  const double least = least_ttft + tokens * least_period(token);
  if (least >= target) return least;
  const double answer = tokens * simulate_period(token);
  if (answer + least_ttft >= target) return answer + least_ttft;
  return answer + best_prompt(prompts, target - answer).seconds;
}

double Evaluation::simulate(const Decision& decision, double target) {
  Seen& seen = seen_.try_emplace(decision).first->second;
  if (seen.exact || seen.seconds >= target) return seen.seconds;
  if (std::isfinite(target)) {
    seen.seconds = relaxed_with_its_slots(decision);
    if (seen.seconds >= target) return seen.seconds;
  }
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
  const Best prompt =
      best_prompt(cuts(decision, layout, problem_.prefill, least_prompt), kInfinity);
  prediction.ttft_seconds = prompt.seconds;
  prediction.prefill_steps = prompt.steps;
  const Best batch = best_batch(cuts(decision, layout, problem_.batch, least_period), kInfinity);
  prediction.seconds_per_token = batch.seconds;
  prediction.decode_steps = batch.steps;
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

#include "plan/halda.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "plan/bound.h"
#include "plan/explain.h"
#include "plan/infinity.h"
#include "plan/relaxation.h"
#include "plan/search.h"
#include "plan/simulator.h"

namespace prima::plan {
namespace {

std::vector<std::uint32_t> rounds_worth_trying(const Problem& problem) {
  std::uint32_t limit = problem.n_layers();
  if (problem.request.max_rounds > 0) limit = std::min(limit, problem.request.max_rounds);
  if (problem.n_devices() == 1) limit = 1;
  std::vector<std::uint32_t> rounds;
  for (std::uint32_t k = 1; k <= limit; k = k < 4 ? k + 1 : k + k / 2) rounds.push_back(k);
  return rounds;
}

class Candidates {
 public:
  Candidates(const Problem& problem, Search& search)
      : problem_(problem), relaxation_(problem, Relaxation::Classes::averaged), search_(search) {}

  void consider_all() {
    consider_single_devices();
    const Objective objective = problem_.request.objective;
    if (objective == Objective::answer || objective == Objective::tpot) {
      for (const std::uint32_t rounds : rounds_worth_trying(problem_)) consider_periods(rounds);
    }
    if (objective != Objective::tpot) consider_balanced();
  }

 private:
  void consider_single_devices() {
    const std::uint32_t n = problem_.n_layers();
    std::vector<std::uint32_t> layers(problem_.n_devices(), 0);
    for (std::size_t device = 0; device < problem_.n_devices(); ++device) {
      layers[device] = n;
      search_.consider(search_.decide(layers, 1));
      layers[device] = 0;
    }
  }

  // Solutions of the relaxed problem as the period rises from below what is feasible.
  void consider_periods(std::uint32_t rounds) {
    Relaxation::Terms terms;
    terms.rounds_ahead = terms.rounds_hops = rounds;
    consider_rising(terms);
    if (problem_.request.objective != Objective::answer || problem_.request.answer_tokens == 0) {
      return;
    }
    // The same with prefill's share: a device's compute counts once as part of the path, and again
    // for each further step where it is the bottleneck, which each device is by turns.
    for (std::size_t i = 0; i < problem_.prefill.size(); i += 2) {
      const double steps = problem_.prefill[i].steps;
      terms.kind = 1 + i;
      terms.kind_weight = (1 + (steps - 1) / static_cast<double>(problem_.n_devices())) /
                          problem_.request.answer_tokens;
      consider_rising(terms);
    }
  }

  void consider_rising(Relaxation::Terms terms) {
    terms.period_seconds = kInfinity;
    double least = relaxation_.least_sum(terms);
    if (least == kInfinity) return;
    double infeasible = 0;
    for (double factor = 1.01; factor < 64; factor *= factor < 1.2 ? 1.09 : 1.5) {
      terms.period_seconds = least * factor;
      if (take(terms)) {
        // Between what was not and what is feasible.
        double low = infeasible;
        double high = terms.period_seconds;
        for (int i = 0; i < 3 && low > 0; ++i) {
          terms.period_seconds = (low + high) / 2;
          (take(terms) ? high : low) = terms.period_seconds;
        }
        break;
      }
      infeasible = terms.period_seconds;
    }
    terms.period_seconds = kInfinity;
    take(terms);
  }

  // Considers the solution at these terms; true if the period is feasible.
  bool take(const Relaxation::Terms& terms) {
    std::vector<std::uint32_t> layers;
    const double sum = relaxation_.least_sum(terms, &layers);
    if (sum == kInfinity) return false;
    const bool feasible = sum <= terms.period_seconds;
    if (!feasible && terms.kind_weight == 0) return false;
    search_.consider(search_.decide(layers, static_cast<std::uint32_t>(terms.rounds_hops)));
    return feasible;
  }

  // With several steps in flight the busiest device decides: the smallest share of it that the
  // others can make up for.
  void consider_balanced() {
    const std::size_t kinds = problem_.kinds().size();
    for (std::size_t kind = 1; kind < kinds; ++kind) {
      Relaxation::Terms terms;
      terms.decode_weight = 0;
      terms.kind = kind;
      terms.kind_weight = 1;
      double high = relaxation_.least_sum(terms);
      if (high == kInfinity) continue;
      double low = 0;
      for (int i = 0; i < 12; ++i) {
        terms.kind_cap_seconds = (low + high) / 2;
        (relaxation_.least_sum(terms) < kInfinity ? high : low) = terms.kind_cap_seconds;
      }
      for (const double slack : {1.0, 1.15, 1.4, 2.0, 4.0}) {
        terms.kind_cap_seconds = high * slack;
        std::vector<std::uint32_t> layers;
        if (relaxation_.least_sum(terms, &layers) < kInfinity) {
          search_.consider(search_.decide(layers, 1));
        }
      }
    }
  }

  const Problem& problem_;
  Relaxation relaxation_;
  Search& search_;
};

double objective_of(const Request& request, const Prediction& prediction) {
  switch (request.objective) {
    case Objective::tpot: return prediction.tpot_seconds;
    case Objective::ttft: return prediction.ttft_seconds;
    case Objective::throughput: return prediction.seconds_per_token;
    case Objective::answer:
      return prediction.ttft_seconds + request.answer_tokens * prediction.tpot_seconds;
  }
  return 0;
}

DevicePlan device_plan(const Problem& problem, const Decision& decision, std::size_t position,
                       DeviceLayout layout, double expert_ratio) {
  const Share& share = decision.ring[position];
  DevicePlan plan;
  plan.device = share.device;
  plan.name = problem.cluster.devices[share.device].name;
  plan.windows = std::move(layout.windows);
  plan.runs_output = position == 0;
  plan.output_gpu = share.output_gpu;
  plan.budget_bytes = problem.budget[share.device];
  plan.compute_buffer_bytes = problem.buffers[share.device];
  for (const profile::GpuProfile& gpu : problem.cluster.devices[share.device].gpus) {
    plan.gpu_names.push_back(gpu.name);
  }
  plan.resident_bytes = layout.resident_bytes;
  plan.kv_bytes = layout.kv_bytes;
  plan.slot_bytes = layout.slot_bytes;
  plan.streamed_bytes = layout.streamed_bytes;
  for (const Segment& segment : layout.segments) {
    if (!segment.streamed) continue;
    const bool whole = !problem.classes[segment.layer_class].stages.empty();
    plan.read_bytes_per_token +=
        segment.dense_bytes + segment.expert_bytes * (whole ? 1 : expert_ratio);
  }
  plan.vram_bytes = std::move(layout.vram_bytes);
  plan.vram_budget_bytes = problem.vram_budget[share.device];
  plan.link_format = decision.hop_formats[position];
  return plan;
}

// Of the prompt as it travels, in `prompt.steps` steps.
PromptPlan prompt_plan(const Problem& problem, const Share& share, const DeviceLayout& layout,
                       const StepCosts& prompt) {
  PromptPlan plan;
  const bool has_processor_layers =
      std::any_of(layout.windows.begin(), layout.windows.end(), [](const Window& window) {
        return std::accumulate(window.gpu_layers.begin(), window.gpu_layers.end(), 0u) <
               window.n_layers;
      });
  if (!share.room || !has_processor_layers) return plan;
  const profile::DeviceProfile& device = problem.cluster.devices[share.device];
  const StepCosts::Device& costs = prompt.devices[share.device];
  const Weights weights = weights_of(problem, share.device, layout);
  if (!costs.processor(weights, share.room).on_gpu) return plan;
  const std::size_t c = typical_class(problem.shape);
  plan.gpu = share.room.gpu;
  plan.places = share.room.places;
  plan.room_bytes = problem.bytes_of(share.room);
  plan.from_tokens = visits_from_tokens(
      {device, device.gpus[static_cast<std::size_t>(plan.gpu)], weights == Weights::budgeted},
      problem.shape, problem.request);
  plan.step_tokens = prompt.tokens;
  plan.gpu_layer_seconds = costs.processor(weights, share.room).seconds[c];
  plan.processor_layer_seconds = costs.processor(weights).seconds[c];
  return plan;
}

bool feasible(const Cluster& cluster, const ModelShape& shape, const Request& request) {
  const auto problem = make_problem(cluster, shape, request);
  if (!problem) return false;
  const Relaxation relaxation(*problem, Relaxation::Classes::averaged);
  return relaxation.least_sum({}) < kInfinity;
}

// The smallest change that makes a plan fit: memory on one device, or a shorter context.
std::string smallest_change(const Cluster& cluster, const ModelShape& shape,
                            const Request& request) {
  std::string remedy;
  Bytes least = std::numeric_limits<Bytes>::max();
  const Bytes all = weight_bytes(shape) + kv_bytes(shape, request.n_ctx) + shape.program_bytes +
                    shape.buffer_bytes + 64 * shape.piece_bytes;
  for (std::size_t i = 0; i < cluster.devices.size(); ++i) {
    Cluster changed = cluster;
    Bytes& memory = changed.devices[i].memory_available_bytes;
    const Bytes base = memory;
    const auto enough = [&](Bytes more) {
      memory = base + more;
      return feasible(changed, shape, request);
    };
    Bytes high = all + changed.devices[i].memory_reserve_bytes;
    if (!enough(high)) continue;
    Bytes low = 0;
    while (high - low > std::max<Bytes>(high / 100, kMiB)) {
      const Bytes middle = low + (high - low) / 2;
      (enough(middle) ? high : low) = middle;
    }
    if (high >= least) continue;
    least = high;
    remedy = format_bytes(high) + " more memory on " + cluster.devices[i].name + " would be enough";
  }
  Request shorter = request;
  std::uint32_t low = 0;
  for (std::uint32_t high = request.n_ctx; high - low > std::max(1u, high / 50);) {
    shorter.n_ctx = low + (high - low) / 2;
    (feasible(cluster, shape, shorter) ? low : high) = shorter.n_ctx;
  }
  if (low > 0) {
    remedy += (remedy.empty() ? "A" : ", or a") + std::string(" context of ") +
              std::to_string(low) + " tokens instead of " + std::to_string(request.n_ctx);
  }
  return remedy.empty() ? "Add a device" : remedy;
}

}  // namespace

Result<Plan> plan_of(const Problem& problem, const Decision& decision) {
  const auto layout = lay_out(problem, decision);
  if (!layout) {
    return fail(ErrorCode::resource_exhausted, "the plan needs more memory than a device has",
                "Make a new plan");
  }
  Plan plan;
  plan.model = problem.shape.name;
  plan.request = problem.request;
  plan.n_layer = problem.n_layers();
  plan.rounds = decision.rounds;
  double expert_ratio = 1;
  for (const double ratio : problem.decode.expert_ratio) {
    expert_ratio = std::min(expert_ratio, ratio);
  }
  for (std::size_t i = 0; i < decision.ring.size(); ++i) {
    plan.ring.push_back(device_plan(problem, decision, i, layout->devices[i], expert_ratio));
  }
  const Evaluation evaluation(problem);
  const Prediction prediction = evaluation.predict(decision, *layout);
  plan.tpot_seconds = prediction.tpot_seconds;
  plan.ttft_seconds = prediction.ttft_seconds;
  plan.tokens_per_second = 1 / prediction.seconds_per_token;
  plan.prefill_steps = prediction.prefill_steps;
  plan.decode_steps = prediction.decode_steps;
  plan.objective_seconds = objective_of(problem.request, prediction);

  const auto prompt =
      std::find_if(problem.prefill.begin(), problem.prefill.end(),
                   [&](const StepCosts& costs) { return costs.steps == prediction.prefill_steps; });
  for (std::size_t i = 0; i < decision.ring.size(); ++i) {
    plan.ring[i].prompts = prompt_plan(problem, decision.ring[i], layout->devices[i], *prompt);
  }

  std::vector<DeviceTrace> traces;
  simulate_period(simulated_ring(problem, decision, *layout, problem.decode), &traces);
  for (std::size_t i = 0; i < traces.size(); ++i) {
    plan.ring[i].time = traces[i].time;
    plan.ring[i].spans = std::move(traces[i].spans);
  }
  return plan;
}

Result<Plan> make_plan(const Cluster& cluster, const ModelShape& shape, const Request& request) {
  PRIMA_ASSIGN_OR_RETURN(const Problem problem, make_problem(cluster, shape, request));
  Search search(problem);
  Candidates(problem, search).consider_all();
  search.consider_all();
  search.improve();
  if (!search.found()) {
    return fail(ErrorCode::resource_exhausted,
                "no plan fits: " + shape.name + " needs " +
                    format_bytes(kv_bytes(shape, request.n_ctx)) + " for " +
                    std::to_string(request.n_ctx) + " tokens of context and " +
                    format_bytes(weight_bytes(shape)) +
                    " for weights, not all of which can be "
                    "streamed",
                smallest_change(cluster, shape, request));
  }
  PRIMA_ASSIGN_OR_RETURN(Plan plan, plan_of(problem, search.best()));
  plan.n_simulated = search.n_simulated();
  plan.bound_seconds = lower_bound(problem, plan.objective_seconds);
  plan.bottleneck = bottleneck_of(plan, problem);
  return plan;
}

}  // namespace prima::plan

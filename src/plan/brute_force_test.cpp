// Halda against every plan there is, on small random clusters.
//
// All decisions are enumerated: devices and their order, rounds, layers, GPU layers, room for
// prompts, the output layer's place, slots on the grid. A decision whose relaxed value is above
// what would prove Halda wrong is not simulated; that the relaxed value is never above the
// simulated is a test of its own.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include <gtest/gtest.h>

#include "plan/evaluation.h"
#include "plan/halda.h"
#include "plan/random_cluster.h"
#include "plan/simulator.h"

namespace prima::plan {
namespace {

constexpr std::uint64_t kCases = 2000;
constexpr double kAllowed = 1.01;

// Calls `visit` with every decision, slots not set.
class Structures {
 public:
  Structures(const Problem& problem, std::function<void(const Decision&)> visit)
      : problem_(problem), visit_(std::move(visit)) {}

  void enumerate() {
    std::vector<std::uint32_t> ring{static_cast<std::uint32_t>(problem_.cluster.head)};
    add_devices(ring);
  }

 private:
  void add_devices(std::vector<std::uint32_t>& ring) {
    const std::uint32_t most = ring.size() == 1 ? 1 : problem_.n_layers();
    for (std::uint32_t rounds = 1; rounds <= most; ++rounds) {
      Decision decision;
      decision.rounds = rounds;
      decision.hop_formats.assign(ring.size(), LinkFormat::f32);
      for (const std::uint32_t device : ring) {
        Share& share = decision.ring.emplace_back();
        share.device = device;
        share.gpu_layers.assign(problem_.vram_budget[device].size(), 0);
      }
      deal_layers(decision, 0, problem_.n_layers());
    }
    for (std::uint32_t device = 0; device < problem_.n_devices(); ++device) {
      if (std::find(ring.begin(), ring.end(), device) != ring.end()) continue;
      ring.push_back(device);
      add_devices(ring);
      ring.pop_back();
    }
  }

  void deal_layers(Decision& decision, std::size_t position, std::uint32_t left) {
    const bool is_last = position + 1 == decision.ring.size();
    const std::uint32_t least = is_last ? left : (position == 0 ? 0 : 1);
    if (!is_last || position == 0 || left > 0) {
      for (std::uint32_t layers = least; layers <= left; ++layers) {
        decision.ring[position].n_layers = layers;
        if (is_last) {
          offload(decision, 0, 0, decision.ring[0].n_layers);
        } else {
          deal_layers(decision, position + 1, left - layers);
        }
      }
    }
  }

  void offload(Decision& decision, std::size_t position, std::size_t gpu, std::uint32_t left) {
    if (position == decision.ring.size()) {
      place_output(decision);
      return;
    }
    Share& share = decision.ring[position];
    if (gpu == share.gpu_layers.size()) {
      const std::size_t next = position + 1;
      const auto go_on = [&] {
        offload(decision, next, 0, next < decision.ring.size() ? decision.ring[next].n_layers : 0);
      };
      go_on();
      if (problem_.kinds().size() == 1) return;  // no step has enough tokens
      for (std::size_t i = 0; i < share.gpu_layers.size(); ++i) {
        for (const std::uint32_t places : {1u, 2u}) {
          share.room = {static_cast<int>(i), places};
          go_on();
        }
      }
      share.room = {};
      return;
    }
    for (std::uint32_t layers = 0; layers <= left; ++layers) {
      share.gpu_layers[gpu] = layers;
      offload(decision, position, gpu + 1, left - layers);
    }
    share.gpu_layers[gpu] = 0;
  }

  void place_output(Decision& decision) {
    const auto n_gpus = static_cast<int>(decision.ring[0].gpu_layers.size());
    for (int gpu = -1; gpu < n_gpus; ++gpu) {
      if (gpu >= 0 &&
          problem_.cluster.devices[problem_.cluster.head].gpus[gpu].output_seconds.seconds[0] ==
              0) {
        continue;
      }
      decision.ring[0].output_gpu = gpu;
      visit_(decision);
    }
    decision.ring[0].output_gpu = -1;
  }

  const Problem& problem_;
  std::function<void(const Decision&)> visit_;
};

// The least simulated objective below `target` over all slots of the grid; `target` if none is.
double best_slots(const Problem& problem, Evaluation& evaluation, Decision decision,
                  double target) {
  const auto windows = windows_of(problem, decision);
  std::vector<Load> loads;
  std::vector<Capacity> capacities;
  for (std::size_t i = 0; i < decision.ring.size(); ++i) {
    loads.push_back(load_of(problem, decision, i, windows[i]));
    capacities.push_back(capacity_of(problem, decision.ring[i].device));
  }
  const bool decodes = problem.request.objective == Objective::tpot ||
                       problem.request.objective == Objective::answer;
  const double tokens =
      problem.request.objective == Objective::answer ? problem.request.answer_tokens : 1;
  const std::function<double(std::size_t, double)> choose = [&](std::size_t i, double best) {
    if (i == loads.size()) return std::min(best, evaluation.simulate(decision));
    if (read_bytes(loads[i], capacities[i], 0) <= 0) {
      decision.ring[i].slot_bytes = 0;
      return choose(i + 1, best);
    }
    const double room = capacities[i].budget_bytes - loads[i].fixed_bytes;
    for (Bytes slots = problem.min_slots; static_cast<double>(slots) <= room;
         slots += problem.slot_grid) {
      const double read = read_bytes(loads[i], capacities[i], static_cast<double>(slots));
      if (decodes && tokens * read / capacities[i].disk_bytes_per_second >= best) break;
      decision.ring[i].slot_bytes = slots;
      best = choose(i + 1, best);
    }
    return best;
  };
  return choose(0, target);
}

TEST(Halda, IsWithinOnePercentOfEveryPlanThereIs) {
  double worst = 1;
  std::uint64_t feasible = 0;
  std::uint64_t optimal = 0;
  std::uint64_t simulated = 0;
  std::uint64_t streaming = 0;
  std::uint64_t with_room = 0;
  std::uint64_t without_room = 0;
  for (std::uint64_t seed = 0; seed < kCases; ++seed) {
    const RandomCase random = random_case(seed);
    const auto problem = make_problem(random.cluster, random.shape, random.request);
    ASSERT_TRUE(problem) << problem.error().message();
    const auto plan = make_plan(random.cluster, random.shape, random.request);
    const double planned = plan ? plan->objective_seconds : std::numeric_limits<double>::infinity();

    Evaluation evaluation(*problem);
    double best = planned;
    Structures(*problem, [&](const Decision& decision) {
      const Sized sized = evaluation.size(decision);
      if (sized.excess_bytes > 0 || sized.relaxed_seconds >= best / 1.0001) return;
      best = best_slots(*problem, evaluation, decision, best);
    }).enumerate();
    simulated += evaluation.n_simulated();
    if (!plan) {
      EXPECT_EQ(best, planned) << "case " << seed << ": a plan exists, but "
                               << plan.error().message();
      EXPECT_FALSE(plan.error().remedy.empty());
      continue;
    }
    ++feasible;
    optimal += planned <= best * 1.0002;
    for (const DevicePlan& device : plan->ring) {
      streaming += device.streamed_bytes > 0;
      with_room += device.prompts.gpu >= 0;
      const auto& gpus = random.cluster.devices[device.device].gpus;
      without_room += !gpus.empty() && device.prompts.gpu < 0;
    }
    EXPECT_LE(planned, kAllowed * best)
        << "case " << seed << " " << to_string(random.request.objective);
    EXPECT_LE(plan->bound_seconds, best * (1 + 1e-6)) << "case " << seed;
    worst = std::max(worst, planned / best);
  }
  RecordProperty("feasible", static_cast<int>(feasible));
  std::printf(
      "%llu of %llu cases feasible, %llu optimal, worst %.4f of the best; %llu devices "
      "stream, %llu leave room for prompts and %llu with GPUs none; %llu simulated by brute "
      "force\n",
      static_cast<unsigned long long>(feasible), static_cast<unsigned long long>(kCases),
      static_cast<unsigned long long>(optimal), worst, static_cast<unsigned long long>(streaming),
      static_cast<unsigned long long>(with_room), static_cast<unsigned long long>(without_room),
      static_cast<unsigned long long>(simulated));
  EXPECT_GT(feasible, kCases / 2);
  EXPECT_GT(streaming, kCases / 4);
  EXPECT_GT(with_room, kCases / 50);
  EXPECT_GT(without_room, kCases / 20);
}

TEST(Relaxed, IsNeverAboveWhatIsSimulated) {
  std::uint64_t compared = 0;
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    const RandomCase random = random_case(seed + 1'000'000);
    const auto problem = make_problem(random.cluster, random.shape, random.request);
    ASSERT_TRUE(problem);
    Evaluation evaluation(*problem);
    std::uint64_t index = 0;
    Structures(*problem, [&](const Decision& decision) {
      if (index++ % 17 != 0) return;
      for (const std::uint32_t margin : {0u, 3u}) {
        const Sized sized = evaluation.size(decision, margin);
        if (sized.excess_bytes > 0) return;
        const double seconds = evaluation.simulate(sized.decision);
        ASSERT_LE(sized.relaxed_seconds, seconds * (1 + 1e-6)) << "case " << seed;
        // With a target that nothing reaches it says no more than the bound for these slots.
        const double bound = Evaluation(*problem).simulate(sized.decision, 1e-12);
        ASSERT_LE(bound, seconds * (1 + 1e-6)) << "case " << seed;
        ++compared;
      }
    }).enumerate();
  }
  EXPECT_GT(compared, 10'000u);
}

TEST(CriticalPath, IsNeverAboveWhatIsSimulated) {
  std::uint64_t compared = 0;
  std::uint64_t close = 0;
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    const RandomCase random = random_case(seed + 3'000'000);
    const auto problem = make_problem(random.cluster, random.shape, random.request);
    ASSERT_TRUE(problem);
    const Evaluation evaluation(*problem);
    std::uint64_t index = 0;
    Structures(*problem, [&](const Decision& decision) {
      if (index++ % 61 != 0) return;
      const Sized sized = evaluation.size(decision, 1);
      if (sized.excess_bytes > 0) return;
      const auto layout = lay_out(*problem, sized.decision);
      if (!layout) return;
      const auto compare = [&](double least, double simulated) {
        ASSERT_LE(least, simulated * (1 + 1e-6)) << "case " << seed;
        ++compared;
        close += least > 0.97 * simulated;
      };
      const auto ring = [&](const StepCosts& costs) {
        return simulated_ring(*problem, sized.decision, *layout, costs);
      };
      for (const StepCosts& costs : problem->prefill) {
        compare(least_prompt(ring(costs)), simulate_prompt(ring(costs)));
      }
      compare(least_period(ring(problem->decode)), simulate_period(ring(problem->decode)));
      for (const StepCosts& costs : problem->batch) {
        compare(least_period(ring(costs)), simulate_period(ring(costs)));
      }
    }).enumerate();
  }
  std::printf("%llu compared, %llu of them within 3 %%\n",
              static_cast<unsigned long long>(compared), static_cast<unsigned long long>(close));
  EXPECT_GT(compared, 10'000u);
  EXPECT_GT(close, compared / 2);
}

TEST(Halda, HonoursEveryBudget) {
  for (std::uint64_t seed = 0; seed < kCases; ++seed) {
    const RandomCase random = random_case(seed + 2'000'000);
    const auto plan = make_plan(random.cluster, random.shape, random.request);
    if (!plan) continue;
    std::uint32_t next = 0;
    for (std::uint32_t round = 0; round < plan->rounds; ++round) {
      for (const DevicePlan& device : plan->ring) {
        ASSERT_EQ(device.windows[round].first_layer, next);
        next += device.windows[round].n_layers;
      }
    }
    EXPECT_EQ(next, plan->n_layer);
    for (const DevicePlan& device : plan->ring) {
      const auto& profile = random.cluster.devices[device.device];
      EXPECT_LE(device.resident_bytes + device.kv_bytes + device.slot_bytes,
                profile.memory_available_bytes - random.shape.program_bytes);
      for (std::size_t gpu = 0; gpu < device.vram_bytes.size(); ++gpu) {
        const bool has_room = device.prompts.gpu == static_cast<int>(gpu);
        EXPECT_LE(device.vram_bytes[gpu] + (has_room ? device.prompts.room_bytes : 0),
                  device.vram_budget_bytes[gpu]);
      }
    }
  }
}

}  // namespace
}  // namespace prima::plan

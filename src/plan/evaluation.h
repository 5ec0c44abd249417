// What a decision is worth: by the relaxed model in microseconds, by the simulator in more.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <limits>
#include <unordered_map>
#include <vector>

#include "plan/layout.h"
#include "plan/load.h"
#include "plan/problem.h"
#include "plan/simulator.h"

namespace prima::plan {

// A decision's loads, for the closed formulas of load.h.
struct Sized {
  Decision decision;
  double excess_bytes = 0;     // above what the devices hold; 0: it fits
  double relaxed_seconds = 0;  // no arrangement of pieces and slots beats this
  double period_seconds = 0;   // of one token, relaxed
};

// Predicted figures, all from the simulator; infinite where not asked for.
struct Prediction {
  double tpot_seconds = 0;
  double ttft_seconds = 0;
  double seconds_per_token = 0;  // of `sequences` sequences
  std::uint32_t prefill_steps = 1;
  std::uint32_t decode_steps = 1;
};

class Evaluation {
 public:
  explicit Evaluation(const Problem& problem);

  // Sizes the slots by the relaxed model, plus `margin` grid steps on each device that streams, and
  // says what the decision is worth at best.
  Sized size(Decision decision, std::uint32_t margin = 0) const;

  // The objective by the simulator; infinite where a budget forbids it. Where it can't be below
  // `target`, it may be told too low, but not below `target`. Remembers what it has seen.
  double simulate(const Decision& decision,
                  double target = std::numeric_limits<double>::infinity());

  // All figures, for the chosen plan.
  Prediction predict(const Decision& decision, const Layout& layout) const;

  std::uint64_t n_simulated() const { return n_simulated_; }
  // What simulating has cost so far: pieces and visits laid out, the same on every machine.
  std::uint64_t work() const { return work_; }

 private:
  struct Hash {
    std::size_t operator()(const Decision& decision) const;
  };

  double relaxed_objective(const Decision& decision,
                           const std::vector<std::vector<Window>>& windows,
                           const std::vector<Load>& loads, double period_seconds) const;
  double queue_seconds(const Decision& decision, const std::vector<std::vector<Window>>& windows,
                       const std::vector<Load>& loads, std::size_t kind, double path_seconds) const;
  double window_seconds(const StepCosts& costs, const Share& share, const Window& window) const;
  // By the relaxed model with the decision's slots, whether they fit or not.
  double relaxed_with_its_slots(const Decision& decision) const;
  // A way to cut the prompt, or the sequences, into steps, and what it takes at least.
  struct Cut {
    SimulatedRing ring;
    double least_seconds = 0;
  };
  struct Best {
    double seconds = std::numeric_limits<double>::infinity();
    std::uint32_t steps = 1;
  };
  // The most promising first.
  std::vector<Cut> cuts(const Decision& decision, const Layout& layout,
                        const std::vector<StepCosts>& kinds,
                        double (*least_seconds)(const SimulatedRing&)) const;
  // Those that can't be below `target` are not simulated.
  Best best_prompt(const std::vector<Cut>& cuts, double target) const;
  Best best_batch(const std::vector<Cut>& cuts, double target) const;
  double simulate_new(const Decision& decision, const Layout& layout, double target) const;
  double simulate_answer(const SimulatedRing& token, const std::vector<Cut>& prompts,
                         double target) const;
  double output_seconds(const StepCosts& costs, const Share& head) const;
  double hops_seconds(const Decision& decision, const StepCosts& costs) const;

  const Problem& problem_;
  std::vector<const StepCosts*> kinds_;
  std::vector<Capacity> capacities_;
  struct Seen {
    double seconds = 0;
    bool exact = false;  // else a lower bound
  };
  std::unordered_map<Decision, Seen, Hash> seen_;
  std::uint64_t n_simulated_ = 0;
  std::uint64_t work_ = 0;
};

}  // namespace prima::plan

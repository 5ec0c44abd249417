// Whether a plan made earlier is still worth keeping, now that devices, memory, disks or links are
// others: the old plan and a new one are judged by the same simulator on the cluster as it is now.
//
// Pure functions.
#pragma once

#include <string>

#include "base/result.h"
#include "plan/layout.h"
#include "plan/plan.h"
#include "plan/problem.h"

namespace prima::plan {

// Forming a ring anew costs seconds of loading, and forecasts waver by some percent from one
// measurement to the next: a plan has to be better by more than that to be taken.
inline constexpr double kWorthReplanning = 1.15;

// The decisions behind a plan, with its devices found by name among the problem's. Fails with
// not_found, naming the device that is gone.
Result<Decision> decision_of(const Plan& plan, const Problem& problem);

struct Replanning {
  Plan plan;  // the best now
  bool worth_it = false;
  std::string reason;  // "laptop is gone", "1.8 times as fast with desktop"
};

// Fails where there is no plan at all for the cluster as it is now.
Result<Replanning> replan(const Plan& old, const Cluster& now, const ModelShape& shape);

}  // namespace prima::plan

// Why a plan is as it is, in sentences.
//
// Pure functions.
#pragma once

#include <string>
#include <vector>

#include "plan/plan.h"
#include "plan/problem.h"

namespace prima::plan {

// What limits the plan: "laptop's disk: it reads 1.2 GB of 2.0 GB/s for every token".
std::string bottleneck_of(const Plan& plan, const Problem& problem);

// The devices that the plan does not use, and why: what happens if they are used.
Result<std::vector<LeftOut>> left_out_of(const Plan& plan, const Cluster& cluster,
                                         const ModelShape& shape);

// One change to the cluster and what it would do.
struct WhatIf {
  std::string change;  // "2 GiB more on laptop"
  double speedup = 1;  // of the objective
};

// Changes tried one at a time, planned anew, best first; those that gain less than 2 % are left
// out, and taking a device away is told where it costs nothing.
std::vector<WhatIf> what_would_help(const Plan& plan, const Cluster& cluster,
                                    const ModelShape& shape);

}  // namespace prima::plan

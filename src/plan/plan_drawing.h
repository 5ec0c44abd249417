// A plan as a person reads it: a table and a time line in the terminal, and the time line as SVG.
//
// Pure functions.
#pragma once

#include <string>
#include <vector>

#include "plan/explain.h"
#include "plan/plan.h"

namespace prima::plan {

// `width`: columns of the terminal.
std::string plan_text(const Plan& plan, const Cluster& cluster, const std::vector<WhatIf>& what_if,
                      std::size_t width = 100);

// One token in the steady state, a row for each device and one for its disk.
std::string plan_svg(const Plan& plan);

}  // namespace prima::plan

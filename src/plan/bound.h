// The lower bound of Halda: what no plan's objective is below, from the relaxed problem.
#pragma once

#include "plan/problem.h"

namespace prima::plan {

// `incumbent_seconds`: the objective of some plan, to begin from; the result is never above it.
double lower_bound(const Problem& problem, double incumbent_seconds);

}  // namespace prima::plan

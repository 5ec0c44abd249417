// Halda: chooses devices, windows, rounds, residency, slots, GPU layers, ring order and link
// formats.
//
//  1. The relaxed problem (relaxation.h) is solved exactly for given rounds and period; searching
//     both gives a lower bound that no plan beats.
//  2. Its solutions, for every number of rounds worth having, are candidates; so are the head alone
//     and the head with each other device alone. The simulator judges them.
//  3. A local search (search.h) goes on from the best few.
//
// The name and the idea of choosing windows and rounds together are from "Prima.cpp", arXiv
// 2504.08791; the model is not: it is the overlap of disk, compute and network of DESIGN.md
// sections 1 and 5 instead of a sum of worst cases.
//
// Deterministic. Thread-safe: no shared state.
#pragma once

#include "base/result.h"
#include "plan/layout.h"
#include "plan/problem.h"

namespace prima::plan {

// Fails with invalid_argument where the input can't be, with resource_exhausted where no plan fits;
// the remedy is then the smallest change that would make one fit.
Result<Plan> make_plan(const Cluster& cluster, const ModelShape& shape, const Request& request);

// What the simulator says of a decision made elsewhere. Fails with resource_exhausted where a
// budget forbids it.
Result<Plan> plan_of(const Problem& problem, const Decision& decision);

}  // namespace prima::plan

// The scheduler of the Prima.cpp paper (arXiv 2504.08791 v2, its layer-to-device assignment problem
// and Algorithm 1), as a baseline for Prima's own.
//
// Its objective adds up what each device does for a token: computing its layers, reading from disk
// what does not fit, and k rounds of hops. How much is read depends on the set a device is in:
//   M1  unified memory, Metal not used, too little memory:  everything is read again
//   M2  unified memory, Metal used, too little memory:      everything is read again
//   M3  other systems, too little memory:                   the overflow is read
//   M4  enough memory:                                      nothing is read
// Sets follow from windows and windows from sets, so both are found by iteration; where a device of
// M4 has VRAM to spare while another is short of memory, the one with the slowest disk is made to
// take only what it can hold (calibration). Windows are the same in every round and rounds divide
// the layers. Devices left with one layer are dropped as long as that does not cost anything.
//
// For given sets and rounds the paper's integer program is separable, so dynamic programming over
// devices solves it exactly here; no solver is needed. Times are this project's profiles, so that
// the schedulers are compared, not their profilers.
#pragma once

#include <optional>

#include "plan/layout.h"
#include "plan/problem.h"

namespace prima::bench {

struct PaperPlan {
  plan::Decision decision;       // slots are not its concern: 0
  double objective_seconds = 0;  // by its own model
};

// nullopt where it finds none.
std::optional<PaperPlan> paper_halda(const plan::Problem& problem);

}  // namespace prima::bench

// Small random planning problems for the property tests.
#pragma once

#include <cstdint>
#include <random>

#include "plan/model_shape.h"
#include "plan/plan.h"

namespace prima::plan {

struct RandomCase {
  Cluster cluster;
  ModelShape shape;
  Request request;
};

// 1 to 3 devices, up to 8 layers in up to 2 classes (dense or experts), with and without GPUs,
// unified memory, disks from slow to none, memories from too small to plenty, cables and Wi-Fi.
RandomCase random_case(std::uint64_t seed);

}  // namespace prima::plan

// Which of a device's layers its GPUs take, and where the head's output layer runs.
#pragma once

#include <optional>

#include "plan/layout.h"
#include "plan/problem.h"

namespace prima::plan {

// What is to be so whatever it costs.
struct GpuDemands {
  std::optional<int> output{};       // where the output layer runs; -1: on the CPU
  std::optional<PromptRoom> room{};  // that is left for layers of prompts, where it can be
};

// Sets gpu_layers, output_gpu and room of the share at ring position `position`: GPUs filled one
// after the other in each order tried, with the output layer on each or none; the best by what then
// does not fit, and then by the device's time. From that, as many layers leave as make room for
// prompts, where that is better. Layers differ in size and are dealt over windows, so what fits is
// tried, not divided.
void fill_gpus(const Problem& problem, Decision& decision, std::size_t position,
               const GpuDemands& demands = {});

}  // namespace prima::plan

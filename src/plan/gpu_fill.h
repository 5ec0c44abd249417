// Which of a device's layers its GPUs take, and where the head's output layer runs.
#pragma once

#include <optional>

#include "plan/layout.h"
#include "plan/problem.h"

namespace prima::plan {

// Sets gpu_layers and output_gpu of the share at ring position `position`: GPUs filled one after
// the other in each order tried, with the output layer on each or none; the best by what then does
// not fit, and then by the device's time. Layers differ in size and are dealt over windows, so what
// fits is tried, not divided.
// `output`, if given, is where the output layer is to run (-1: the CPU) whatever that costs.
void fill_gpus(const Problem& problem, Decision& decision, std::size_t position,
               std::optional<int> output = std::nullopt);

}  // namespace prima::plan

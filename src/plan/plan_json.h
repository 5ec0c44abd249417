// A plan as a file: what `prima plan --json` writes and `prima run --plan` takes.
//
// Format, version 1: an object with "version", "model", "n_layer", "rounds", "n_ctx", "devices" (in
// ring order: "name", "windows" [[first layer, layers, [layers by GPU]], one for each round],
// "output_gpu", "gpu_names", "slot_bytes", "link_format", memory figures) and "predicted". Reading
// checks that the windows are consecutive and cover every layer once.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "plan/plan.h"

namespace prima::plan {

std::string plan_to_json(const Plan& plan);

// `name`: what errors call the text. Reads what running a plan needs; spans and reasons stay empty.
Result<Plan> plan_from_json(std::string_view text, std::string_view name);

}  // namespace prima::plan

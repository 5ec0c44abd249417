#include "plan/replan.h"

#include <algorithm>
#include <cstdio>

#include "plan/halda.h"

namespace prima::plan {
namespace {

// Devices of `plan` that `other` has no work for.
std::string devices_only_in(const Plan& plan, const Plan& other) {
  std::string names;
  for (const DevicePlan& device : plan.ring) {
    const bool in_both = std::any_of(other.ring.begin(), other.ring.end(),
                                     [&](const DevicePlan& d) { return d.name == device.name; });
    if (in_both) continue;
    names += (names.empty() ? "" : ", ") + device.name;
  }
  return names;
}

std::string gain_text(double gain, const Plan& old, const Plan& plan) {
  char text[64];
  std::snprintf(text, sizeof text, "%.2f times as fast", gain);
  std::string reason = text;
  const std::string with = devices_only_in(plan, old);
  const std::string without = devices_only_in(old, plan);
  if (!with.empty()) reason += " with " + with;
  if (!without.empty()) reason += (with.empty() ? " without " : " and without ") + without;
  return reason;
}

}  // namespace

Result<Decision> decision_of(const Plan& plan, const Problem& problem) {
  Decision decision;
  decision.rounds = plan.rounds;
  for (const DevicePlan& device : plan.ring) {
    const auto& devices = problem.cluster.devices;
    const auto found = std::find_if(devices.begin(), devices.end(),
                                    [&](const auto& each) { return each.name == device.name; });
    if (found == devices.end() || found->gpus.size() != device.gpu_names.size()) {
      return fail(ErrorCode::not_found,
                  device.name + (found == devices.end() ? " is gone" : " has other GPUs now"),
                  "Make a new plan");
    }
    Share share;
    share.device = static_cast<std::uint32_t>(found - devices.begin());
    share.gpu_layers.resize(device.gpu_names.size());
    for (const Window& window : device.windows) {
      share.n_layers += window.n_layers;
      for (std::size_t gpu = 0; gpu < window.gpu_layers.size(); ++gpu) {
        share.gpu_layers[gpu] += window.gpu_layers[gpu];
      }
    }
    share.output_gpu = device.output_gpu;
    share.room = {device.prompts.gpu, device.prompts.places};
    share.slot_bytes = device.slot_bytes;
    decision.ring.push_back(std::move(share));
    decision.hop_formats.push_back(device.link_format);
  }
  return decision;
}

Result<Replanning> replan(const Plan& old, const Cluster& now, const ModelShape& shape) {
  PRIMA_ASSIGN_OR_RETURN(const Problem problem, make_problem(now, shape, old.request));
  Replanning result;
  PRIMA_ASSIGN_OR_RETURN(result.plan, make_plan(now, shape, old.request));
  const auto decision = decision_of(old, problem);
  if (!decision) {
    result.worth_it = true;
    result.reason = decision.error().what;
    return result;
  }
  const auto as_before = plan_of(problem, *decision);
  if (!as_before) {
    result.worth_it = true;
    result.reason = "a device has less memory than the plan took for granted";
    return result;
  }
  const double gain = as_before->objective_seconds / result.plan.objective_seconds;
  result.worth_it = gain > kWorthReplanning;
  result.reason = gain_text(gain, old, result.plan);
  return result;
}

}  // namespace prima::plan

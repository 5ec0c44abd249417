// The plan nobody has to think about: from the devices that have joined to what the ring runs.
#pragma once

#include <functional>
#include <vector>

#include "cli/device_options.h"
#include "model/hyperparameters.h"
#include "model/model_file.h"
#include "plan/model_shape.h"
#include "plan/plan.h"
#include "ring/ring.h"

namespace prima::cli {

// The planning of `prima run`: profiles, links, Halda, and a line or two about the outcome on
// standard error. REQUIRES: check(options).
std::function<ring::RingPlanning(const model::ModelFile&)> make_planner(
    const DeviceOptions& options, std::uint32_t n_ctx);

// The devices of an offer that can be planned with. Of processes that share one computer's memory
// (profile/hardware.h) the head counts, or the one with the most: together they have no more.
struct OfferedCluster {
  plan::Cluster cluster;
  std::vector<std::uint32_t> devices;    // by device of the cluster: its index in the offer
  std::vector<plan::LeftOut> unplanned;  // the others, and why
};
Result<OfferedCluster> cluster_of(const ring::RingOffer& offer);

// plan::make_plan, with steps no larger than suit the memory of any device that the plan uses, and
// in a ring smaller ones where that is better: where memory is short, every byte of compute buffers
// is a byte more to read for every token.
Result<plan::Plan> plan_with_fitting_steps(const plan::Cluster& cluster,
                                           const plan::ModelShape& shape, plan::Request request,
                                           const model::Hyperparameters& model);

// The devices that have joined and their links, with nothing run: `n_workers` 0 takes whoever is
// there. Fails as ring::form_ring.
struct JoinedCluster {
  OfferedCluster offered;
  std::uint32_t step_tokens = 0;  // that the head's memory allows
};
Result<JoinedCluster> joined_cluster(const model::ModelFile& model, const DeviceOptions& options,
                                     std::uint32_t n_ctx);

// What the ring has to do to run `plan`. `devices`: of each device of the plan's cluster, its index
// in the ring's offer; `profiles` beside them, empty where the plan comes from a file.
ring::RingPlan ring_plan_of(const plan::Plan& plan, const std::vector<std::uint32_t>& devices,
                            const std::vector<profile::DeviceProfile>& profiles);

// "Plan: desktop 20 layers, laptop 12, of which 0.8 GiB are read from disk for every token; ..."
std::string plan_summary(const plan::Plan& plan);

}  // namespace prima::cli

// The plan nobody has to think about: from the devices that have joined to what the ring runs.
#pragma once

#include <functional>
#include <vector>

#include "cli/device_options.h"
#include "model/model_file.h"
#include "plan/plan.h"
#include "ring/ring.h"

namespace prima::cli {

// The planning of `prima run`: profiles, links, Halda, and a line or two about the outcome on
// standard error. REQUIRES: check(options).
std::function<ring::RingPlanning(const model::ModelFile&)> make_planner(
    const DeviceOptions& options, std::uint32_t n_ctx);

// The devices of an offer that can be planned with.
struct OfferedCluster {
  plan::Cluster cluster;
  std::vector<std::uint32_t> devices;    // by device of the cluster: its index in the offer
  std::vector<plan::LeftOut> unplanned;  // the others, and why
};
// `step_tokens`: of the largest steps, which compute buffers have to hold.
Result<OfferedCluster> cluster_of(const ring::RingOffer& offer, std::uint32_t step_tokens);

// The devices that have joined and their links, with nothing run: `n_workers` 0 takes whoever is
// there. Fails as ring::form_ring.
Result<OfferedCluster> joined_cluster(const model::ModelFile& model, const DeviceOptions& options,
                                      std::uint32_t n_ctx);

// What the ring has to do to run `plan`. `devices`: of each device of the plan's cluster, its index
// in the ring's offer; `profiles` beside them, empty where the plan comes from a file.
ring::RingPlan ring_plan_of(const plan::Plan& plan, const std::vector<std::uint32_t>& devices,
                            const std::vector<profile::DeviceProfile>& profiles);

// "Plan: desktop 20 layers, laptop 12, of which 0.8 GiB are read from disk for every token; ..."
std::string plan_summary(const plan::Plan& plan);

}  // namespace prima::cli

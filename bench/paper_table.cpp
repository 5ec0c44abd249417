// The paper's clusters: Prima's plans beside those of the paper's scheduler, both put through the
// same simulator, and beside what the paper measured. Usage: paper_table [docs/clusters]
#include <cmath>
#include <cstdio>
#include <string>

#include "paper_halda.h"

#include "plan/cluster_file.h"
#include "plan/evaluation.h"
#include "plan/halda.h"
#include "plan/named_shapes.h"

namespace {

using namespace prima;
using namespace prima::plan;

struct Size {
  const char* shape;
  double measured_ms;   // prima.cpp on D1-D4, TPOT
  double llama_cpp_ms;  // on D3 alone
};
// arXiv 2504.08791 v2, Llama models, Q4_K.
constexpr Size kSizes[] = {{"llama-8b-q4_k", 15, 15},     {"llama-14b-q4_k", 20, 20},
                           {"llama-30b-q4_k", 72, 202},   {"llama-45b-q4_k", 233, 328},
                           {"llama-60b-q4_k", 468, 7965}, {"llama-65b-q4_k", 569, 8807},
                           {"llama-70b-q4_k", 674, 10120}};

Request tpot_request() {
  Request request;
  request.objective = Objective::tpot;
  request.n_ctx = 1024;
  request.prompt_tokens = 128;
  request.answer_tokens = 64;
  return request;
}

std::string ring_text(const Problem& problem, const Decision& decision) {
  std::string text = "k=" + std::to_string(decision.rounds);
  for (const Share& share : decision.ring) {
    std::uint32_t on_gpu = 0;
    for (const std::uint32_t layers : share.gpu_layers) on_gpu += layers;
    text += " " + problem.cluster.devices[share.device].name + ":" + std::to_string(share.n_layers);
    if (on_gpu > 0) text += "(" + std::to_string(on_gpu) + ")";
  }
  return text;
}

std::string ring_text(const Plan& plan) {
  std::string text = "k=" + std::to_string(plan.rounds);
  for (const DevicePlan& device : plan.ring) {
    std::uint32_t layers = 0;
    std::uint32_t on_gpu = 0;
    for (const Window& window : device.windows) {
      layers += window.n_layers;
      for (const std::uint32_t gpu : window.gpu_layers) on_gpu += gpu;
    }
    text += " " + device.name + ":" + std::to_string(layers);
    if (on_gpu > 0) text += "(" + std::to_string(on_gpu) + ")";
  }
  return text;
}

Status compare(const std::string& path, bool has_measured) {
  const Request request = tpot_request();
  std::printf("%s, TPOT in ms; layers by device (of them on the GPU)\n", path.c_str());
  std::printf("  %-16s %9s %9s %9s  %-44s %9s  %s\n", "model", "measured", "Prima", "bound",
              "Prima's plan", "baseline", "baseline's plan");
  for (const Size& size : kSizes) {
    PRIMA_ASSIGN_OR_RETURN(const ModelShape shape, named_shape(size.shape));
    PRIMA_ASSIGN_OR_RETURN(const Cluster cluster, read_cluster_file(path, shape));
    PRIMA_ASSIGN_OR_RETURN(const Plan plan, make_plan(cluster, shape, request));
    PRIMA_ASSIGN_OR_RETURN(const Problem problem, make_problem(cluster, shape, request));
    std::string baseline = "none";
    std::string baseline_ring;
    if (const auto paper = bench::paper_halda(problem)) {
      Evaluation evaluation(problem);
      // Its output layer goes to the GPU where that has room, as llama.cpp's does.
      Decision decision = paper->decision;
      if (!decision.ring[0].gpu_layers.empty()) decision.ring[0].output_gpu = 0;
      Sized sized = evaluation.size(decision);
      if (sized.excess_bytes > 0) sized = evaluation.size(paper->decision);
      const auto simulated = plan_of(problem, sized.decision);
      baseline = simulated ? std::to_string(std::lround(1e3 * simulated->tpot_seconds)) : "no fit";
      baseline_ring = ring_text(problem, sized.decision);
    }
    const std::string measured = has_measured ? std::to_string(std::lround(size.measured_ms)) : "-";
    std::printf("  %-16s %9s %9.0f %9.0f  %-44s %9s  %s\n", size.shape, measured.c_str(),
                1e3 * plan.tpot_seconds, 1e3 * plan.bound_seconds, ring_text(plan).c_str(),
                baseline.c_str(), baseline_ring.c_str());
  }
  return {};
}

// What rounds do: the best plan with at most so many.
Status rounds_table(const std::string& path) {
  std::printf("%s, TPOT in ms with at most k rounds\n  %-16s", path.c_str(), "model");
  for (const std::uint32_t most : {1, 2, 4, 8})
    std::printf(" %8s", ("k<=" + std::to_string(most)).c_str());
  std::printf("\n");
  for (const Size& size : kSizes) {
    PRIMA_ASSIGN_OR_RETURN(const ModelShape shape, named_shape(size.shape));
    PRIMA_ASSIGN_OR_RETURN(const Cluster cluster, read_cluster_file(path, shape));
    std::printf("  %-16s", size.shape);
    for (const std::uint32_t most : {1, 2, 4, 8}) {
      Request request = tpot_request();
      request.max_rounds = most;
      PRIMA_ASSIGN_OR_RETURN(const Plan plan, make_plan(cluster, shape, request));
      std::printf(" %8.0f", 1e3 * plan.tpot_seconds);
    }
    std::printf("\n");
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  const std::string folder = argc > 1 ? argv[1] : "docs/clusters";
  for (const Status& status :
       {compare(folder + "/paper-d1-d4.toml", true), compare(folder + "/paper-d1-d6.toml", false),
        compare(folder + "/four-even-cpu.toml", false),
        rounds_table(folder + "/four-even-cpu.toml")}) {
    if (status) continue;
    std::fprintf(stderr, "paper_table: %s\n", status.error().message().c_str());
    return 1;
  }
  return 0;
}

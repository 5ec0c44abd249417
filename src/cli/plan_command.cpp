#include "cli/plan_command.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "cli/atomic_file.h"
#include "cli/device_profile.h"
#include "cli/exit_code.h"
#include "cli/planning.h"
#include "model/model_file.h"
#include "plan/cluster_file.h"
#include "plan/explain.h"
#include "plan/halda.h"
#include "plan/named_shapes.h"
#include "plan/plan_drawing.h"
#include "plan/plan_json.h"

namespace prima::cli {
namespace {

constexpr const char* kPlanFooter =
    "For the devices that have joined (prima join), as they were measured; or for a cluster that "
    "is\n"
    "described in a file (docs/cluster-file.md; examples in docs/clusters/), and then a model may "
    "be\n"
    "given by name. Nothing is run.\n"
    "\n"
    "Examples:\n"
    "  prima plan -m model.gguf\n"
    "  prima plan --cluster docs/clusters/paper-d1-d4.toml --shape llama-70b-q4_k\n"
    "  prima plan --cluster home.toml -m model.gguf --objective tpot --svg plan.svg\n"
    "  prima plan -m model.gguf --json > plan.json    and then: prima run -m model.gguf --plan "
    "plan.json\n";

constexpr std::uint32_t kDefaultContext = 4096;

struct PlanOptions {
  std::optional<std::string> cluster;
  DeviceOptions devices;  // those that join
  std::optional<std::string> model;
  std::optional<std::string> shape;
  std::string objective = "answer";
  std::int64_t context = 0;  // 0: 4096, or what the model was trained for if that is less
  std::int64_t prompt = 512;
  std::int64_t answer = 256;
  std::int64_t sequences = 8;
  std::int64_t max_rounds = 0;
  bool all_formats = false;
  bool json = false;
  bool no_what_if = false;
  std::optional<std::string> svg;
};

Result<std::uint32_t> in_range(const char* flag, std::int64_t value, std::int64_t least,
                               std::int64_t most) {
  if (value >= least && value <= most) return static_cast<std::uint32_t>(value);
  return fail(ErrorCode::invalid_argument, std::string(flag) + " can't be " + std::to_string(value),
              "Give a number from " + std::to_string(least) + " to " + std::to_string(most));
}

Result<plan::Request> request_of(const PlanOptions& options) {
  constexpr std::int64_t kMostTokens = 16'777'216;
  plan::Request request;
  bool known = false;
  for (const plan::Objective objective : {plan::Objective::answer, plan::Objective::tpot,
                                          plan::Objective::ttft, plan::Objective::throughput}) {
    if (options.objective != plan::to_string(objective)) continue;
    request.objective = objective;
    known = true;
  }
  if (!known) {
    return fail(ErrorCode::invalid_argument, "no objective is called '" + options.objective + "'",
                "Use answer, tpot, ttft or throughput");
  }
  PRIMA_ASSIGN_OR_RETURN(request.n_ctx, in_range("--context", options.context, 0, kMostTokens));
  PRIMA_ASSIGN_OR_RETURN(request.prompt_tokens,
                         in_range("--prompt-tokens", options.prompt, 1, kMostTokens));
  PRIMA_ASSIGN_OR_RETURN(request.answer_tokens,
                         in_range("--answer-tokens", options.answer, 0, kMostTokens));
  PRIMA_ASSIGN_OR_RETURN(request.sequences, in_range("--sequences", options.sequences, 1, 4096));
  PRIMA_ASSIGN_OR_RETURN(request.max_rounds, in_range("--max-rounds", options.max_rounds, 0, 4096));
  if (options.all_formats) {
    request.link_formats = {plan::LinkFormat::f32, plan::LinkFormat::f16, plan::LinkFormat::q8_0};
  }
  return request;
}

Result<plan::ModelShape> shape_of(const PlanOptions& options,
                                  const std::optional<model::ModelFile>& model) {
  if (!options.cluster && !options.model) {
    return fail(ErrorCode::invalid_argument, "devices are measured with a model's file",
                "Give it with -m, or describe the devices with --cluster");
  }
  if (options.model.has_value() == options.shape.has_value()) {
    return fail(ErrorCode::invalid_argument, "no model is named",
                "Give its file with -m, or its name with --shape, such as llama-70b-q4_k");
  }
  if (options.shape) return plan::named_shape(*options.shape);
  return planned_shape(*model, kv_type_of(options.devices));
}

Result<JoinedCluster> cluster_for(const PlanOptions& options, const plan::ModelShape& shape,
                                  const std::optional<model::ModelFile>& model,
                                  std::uint32_t n_ctx) {
  if (options.cluster) {
    PRIMA_ASSIGN_OR_RETURN(plan::Cluster cluster, plan::read_cluster_file(*options.cluster, shape));
    return JoinedCluster{{std::move(cluster), {}, {}}, profile::kProfiledStepTokens};
  }
  return joined_cluster(*model, options.devices, n_ctx);
}

Status run(const PlanOptions& options) {
  PRIMA_RETURN_IF_ERROR(check(options.devices));
  PRIMA_ASSIGN_OR_RETURN(plan::Request request, request_of(options));
  if (options.svg) PRIMA_RETURN_IF_ERROR(check_writable(*options.svg));
  std::optional<model::ModelFile> model;
  if (options.model && !options.shape) {
    PRIMA_ASSIGN_OR_RETURN(model, model::ModelFile::open(*options.model));
  }
  PRIMA_ASSIGN_OR_RETURN(const plan::ModelShape shape, shape_of(options, model));
  if (request.n_ctx == 0) {
    request.n_ctx =
        shape.n_ctx_train > 0 ? std::min(kDefaultContext, shape.n_ctx_train) : kDefaultContext;
  }
  PRIMA_ASSIGN_OR_RETURN(const JoinedCluster joined,
                         cluster_for(options, shape, model, request.n_ctx));
  const plan::Cluster& cluster = joined.offered.cluster;
  request.step_tokens = joined.step_tokens;
  PRIMA_ASSIGN_OR_RETURN(plan::Plan plan, model ? plan_with_fitting_steps(cluster, shape, request,
                                                                          model->hyperparameters())
                                                : plan::make_plan(cluster, shape, request));
  PRIMA_ASSIGN_OR_RETURN(plan.left_out, plan::left_out_of(plan, cluster, shape));
  plan.left_out.insert(plan.left_out.end(), joined.offered.unplanned.begin(),
                       joined.offered.unplanned.end());
  if (options.svg) PRIMA_RETURN_IF_ERROR(write_atomically(*options.svg, plan::plan_svg(plan)));
  if (options.json) {
    std::fputs(plan::plan_to_json(plan).c_str(), stdout);
    return {};
  }
  std::vector<plan::WhatIf> what_if;
  if (!options.no_what_if) what_if = plan::what_would_help(plan, cluster, shape);
  std::fputs(plan::plan_text(plan, cluster, what_if).c_str(), stdout);
  return {};
}

}  // namespace

void add_plan_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand(
      "plan", "Say how a cluster would run a model: who runs what, how fast, and why");
  command->footer(kPlanFooter);
  const auto options = std::make_shared<PlanOptions>();
  command->add_option("--cluster", options->cluster,
                      "The cluster's description, a TOML file; without it the devices that join");
  add_joining_options(*command, options->devices);
  command->add_option("-m,--model", options->model, "The model, a GGUF file");
  command->add_option("--shape", options->shape,
                      "The model by name: llama-8b-q4_k ... llama-70b-q4_k, qwen2.5-32b-q4_k, ...");
  command->add_option("--objective", options->objective,
                      "What to minimize: answer (a prompt and its answer), tpot, ttft, throughput");
  command->add_option(
      "-c,--context", options->context,
      "Tokens of context to make room for; 4096, or what the model was trained for");
  command->add_option("--prompt-tokens", options->prompt, "Length of the prompt planned for");
  command->add_option("--answer-tokens", options->answer, "Length of the answer planned for");
  command->add_option("--sequences", options->sequences, "Sequences at once, for throughput");
  command->add_option("--max-rounds", options->max_rounds, "Rounds per token at most; 0: any");
  command->add_flag("--compress-links", options->all_formats,
                    "Allow f16 and q8_0 hidden states, which change the answer slightly");
  command->add_option("--svg", options->svg, "Draw one token's time line into this file");
  command->add_flag("--json", options->json, "Print the plan as JSON");
  command->add_flag("--no-what-if", options->no_what_if, "Don't try what changes would help");
  command->callback([options, &exit_code] {
    const Status status = run(*options);
    exit_code = status ? kSuccess : report(status.error());
  });
}

}  // namespace prima::cli

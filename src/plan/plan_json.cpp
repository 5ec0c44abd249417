#include "plan/plan_json.h"

#include <algorithm>

#include <nlohmann/json.hpp>

namespace prima::plan {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 3;

const char* to_string(Activity activity) {
  switch (activity) {
    case Activity::compute: return "compute";
    case Activity::disk_wait: return "disk wait";
    case Activity::disk_read: return "disk read";
    case Activity::network: return "network";
  }
  return "?";
}

Json device_json(const DevicePlan& device) {
  Json windows = Json::array();
  for (const Window& window : device.windows) {
    windows.push_back({window.first_layer, window.n_layers, window.gpu_layers});
  }
  Json spans = Json::array();
  for (const Span& span : device.spans) {
    spans.push_back({to_string(span.activity), span.start_seconds, span.end_seconds});
  }
  const PromptPlan& prompts = device.prompts;
  return {{"name", device.name},
          {"windows", windows},
          {"runs_output", device.runs_output},
          {"output_gpu", device.output_gpu},
          {"budget_bytes", device.budget_bytes},
          {"compute_buffer_bytes", device.compute_buffer_bytes},
          {"resident_bytes", device.resident_bytes},
          {"kv_bytes", device.kv_bytes},
          {"slot_bytes", device.slot_bytes},
          {"streamed_bytes", device.streamed_bytes},
          {"read_bytes_per_token", device.read_bytes_per_token},
          {"vram_bytes", device.vram_bytes},
          {"vram_budget_bytes", device.vram_budget_bytes},
          {"gpu_names", device.gpu_names},
          {"prompts",
           {{"gpu", prompts.gpu},
            {"places", prompts.places},
            {"room_bytes", prompts.room_bytes},
            {"from_tokens", prompts.from_tokens},
            {"step_tokens", prompts.step_tokens},
            {"gpu_layer_seconds", prompts.gpu_layer_seconds},
            {"processor_layer_seconds", prompts.processor_layer_seconds}}},
          {"link_format", plan::to_string(device.link_format)},
          {"compute_seconds", device.time.compute_seconds},
          {"disk_wait_seconds", device.time.disk_wait_seconds},
          {"network_seconds", device.time.network_seconds},
          {"idle_seconds", device.time.idle_seconds},
          {"timeline", spans}};
}

// Throws nlohmann's exceptions where a field is missing or of another type.
DevicePlan device_from(const Json& json) {
  DevicePlan device;
  device.name = json.at("name").get<std::string>();
  for (const Json& entry : json.at("windows")) {
    device.windows.push_back({entry.at(0).get<std::uint32_t>(), entry.at(1).get<std::uint32_t>(),
                              entry.at(2).get<std::vector<std::uint32_t>>()});
  }
  device.runs_output = json.at("runs_output").get<bool>();
  device.output_gpu = json.at("output_gpu").get<int>();
  device.budget_bytes = json.at("budget_bytes").get<Bytes>();
  device.compute_buffer_bytes = json.at("compute_buffer_bytes").get<Bytes>();
  device.resident_bytes = json.at("resident_bytes").get<Bytes>();
  device.kv_bytes = json.at("kv_bytes").get<Bytes>();
  device.slot_bytes = json.at("slot_bytes").get<Bytes>();
  device.streamed_bytes = json.at("streamed_bytes").get<Bytes>();
  device.read_bytes_per_token = json.at("read_bytes_per_token").get<double>();
  device.vram_bytes = json.at("vram_bytes").get<std::vector<Bytes>>();
  device.vram_budget_bytes = json.at("vram_budget_bytes").get<std::vector<Bytes>>();
  device.gpu_names = json.at("gpu_names").get<std::vector<std::string>>();
  const Json& prompts = json.at("prompts");
  device.prompts = {.gpu = prompts.at("gpu").get<int>(),
                    .places = prompts.at("places").get<std::uint32_t>(),
                    .room_bytes = prompts.at("room_bytes").get<Bytes>(),
                    .from_tokens = prompts.at("from_tokens").get<std::uint32_t>(),
                    .step_tokens = prompts.at("step_tokens").get<double>(),
                    .gpu_layer_seconds = prompts.at("gpu_layer_seconds").get<double>(),
                    .processor_layer_seconds = prompts.at("processor_layer_seconds").get<double>()};
  const auto format = json.at("link_format").get<std::string>();
  for (const LinkFormat known : {LinkFormat::f32, LinkFormat::f16, LinkFormat::q8_0}) {
    if (format == plan::to_string(known)) device.link_format = known;
  }
  return device;
}

Plan plan_from(const Json& json) {
  Plan plan;
  plan.model = json.at("model").get<std::string>();
  plan.n_layer = json.at("n_layer").get<std::uint32_t>();
  plan.rounds = json.at("rounds").get<std::uint32_t>();
  plan.request.n_ctx = json.at("n_ctx").get<std::uint32_t>();
  plan.request.step_tokens = json.at("step_tokens").get<std::uint32_t>();
  plan.prefill_steps = json.at("prefill_steps").get<std::uint32_t>();
  plan.decode_steps = json.at("decode_steps").get<std::uint32_t>();
  for (const Json& device : json.at("devices")) plan.ring.push_back(device_from(device));
  const Json& predicted = json.at("predicted");
  plan.tpot_seconds = predicted.at("tpot_seconds").get<double>();
  plan.ttft_seconds = predicted.at("ttft_seconds").get<double>();
  plan.tokens_per_second = predicted.at("tokens_per_second").get<double>();
  plan.objective_seconds = predicted.at("objective_seconds").get<double>();
  plan.bound_seconds = predicted.at("bound_seconds").get<double>();
  return plan;
}

// What is wrong with a plan that was well-formed; empty: nothing.
std::string fault_of(const Plan& plan) {
  if (plan.ring.empty()) return "it has no devices";
  if (plan.request.step_tokens == 0) return "its steps have no tokens";
  for (const DevicePlan& device : plan.ring) {
    if (device.prompts.gpu >= static_cast<int>(device.gpu_names.size())) {
      return device.name + " has room for prompts on a GPU that it has not";
    }
  }
  std::uint32_t next = 0;
  for (std::uint32_t round = 0; round < plan.rounds; ++round) {
    for (const DevicePlan& device : plan.ring) {
      if (device.windows.size() != plan.rounds) {
        return device.name + " has " + std::to_string(device.windows.size()) + " windows for " +
               std::to_string(plan.rounds) + " rounds";
      }
      const Window& window = device.windows[round];
      if (window.first_layer != next || window.n_layers > plan.n_layer - next) {
        return device.name + "'s window of round " + std::to_string(round + 1) +
               " does not follow the one before it";
      }
      if (window.gpu_layers.size() != device.gpu_names.size()) {
        return device.name + " has " + std::to_string(device.gpu_names.size()) +
               " GPUs, but layers for " + std::to_string(window.gpu_layers.size());
      }
      std::uint32_t on_gpus = 0;
      for (const std::uint32_t layers : window.gpu_layers) {
        on_gpus += std::min(layers, plan.n_layer + 1);
        if (on_gpus > window.n_layers) return device.name + " has more GPU layers than layers";
      }
      next += window.n_layers;
    }
  }
  if (next != plan.n_layer) {
    return "its windows cover " + std::to_string(next) + " of " + std::to_string(plan.n_layer) +
           " layers";
  }
  return "";
}

}  // namespace

std::string plan_to_json(const Plan& plan) {
  Json devices = Json::array();
  for (const DevicePlan& device : plan.ring) devices.push_back(device_json(device));
  Json left_out = Json::array();
  for (const LeftOut& device : plan.left_out) {
    left_out.push_back({{"name", device.name}, {"reason", device.reason}});
  }
  const Json json = {{"version", kVersion},
                     {"model", plan.model},
                     {"n_layer", plan.n_layer},
                     {"rounds", plan.rounds},
                     {"n_ctx", plan.request.n_ctx},
                     {"step_tokens", plan.request.step_tokens},
                     {"objective", to_string(plan.request.objective)},
                     {"prefill_steps", plan.prefill_steps},
                     {"decode_steps", plan.decode_steps},
                     {"devices", devices},
                     {"left_out", left_out},
                     {"predicted",
                      {{"tpot_seconds", plan.tpot_seconds},
                       {"ttft_seconds", plan.ttft_seconds},
                       {"prompt_tokens", plan.request.prompt_tokens},
                       {"tokens_per_second", plan.tokens_per_second},
                       {"sequences", plan.request.sequences},
                       {"objective_seconds", plan.objective_seconds},
                       {"bound_seconds", plan.bound_seconds},
                       {"simulated", plan.n_simulated}}},
                     {"bottleneck", plan.bottleneck}};
  return json.dump(2) + "\n";
}

Result<Plan> plan_from_json(std::string_view text, std::string_view name) {
  constexpr const char* kRemedy = "Write the plan anew with prima plan --json";
  try {
    const Json json = Json::parse(text);
    if (json.at("version").get<int>() != kVersion) {
      return fail(ErrorCode::unsupported,
                  std::string(name) + " is a plan of version " +
                      std::to_string(json.at("version").get<int>()) + ", not " +
                      std::to_string(kVersion),
                  kRemedy);
    }
    Plan plan = plan_from(json);
    if (const std::string fault = fault_of(plan); !fault.empty()) {
      return fail(ErrorCode::corrupt, std::string(name) + ": " + fault, kRemedy);
    }
    return plan;
  } catch (const Json::exception& error) {
    return fail(ErrorCode::corrupt, std::string(name) + " is no plan: " + error.what(), kRemedy);
  }
}

}  // namespace prima::plan

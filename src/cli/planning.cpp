#include "cli/planning.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "base/log.h"
#include "cli/device_profile.h"
#include "cli/text_file.h"
#include "compute/gpu.h"
#include "plan/explain.h"
#include "plan/halda.h"
#include "plan/plan_json.h"
#include "plan/replan.h"
#include "profile/device_profile_json.h"
#include "weights/budget.h"

namespace prima::cli {
namespace {

// A link over which no answer came. Planning goes on: no plan will use it.
constexpr profile::LinkProfile kUnreachable{600, 1, 1, false};

std::string printed(const char* format, auto... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

std::string link_key(const ring::OfferedDevice& a, const ring::OfferedDevice& b) {
  return "link " + a.name + " " + a.address + " " + b.name + " " + b.address;
}

std::optional<profile::LinkProfile> known_link(const ring::OfferedDevice& a,
                                               const ring::OfferedDevice& b) {
  return profile_cache().find_link(link_key(a, b));
}

plan::LinkFormat link_format(const std::string& name) {
  for (const auto format : {plan::LinkFormat::f16, plan::LinkFormat::q8_0}) {
    if (name == plan::to_string(format)) return format;
  }
  return plan::LinkFormat::f32;
}

ggml_type link_type(plan::LinkFormat format) {
  switch (format) {
    case plan::LinkFormat::f32: return GGML_TYPE_F32;
    case plan::LinkFormat::f16: return GGML_TYPE_F16;
    case plan::LinkFormat::q8_0: return GGML_TYPE_Q8_0;
  }
  return GGML_TYPE_F32;
}

bool streams(const plan::DevicePlan& device) { return device.slot_bytes > 0; }

bool is_worth_telling(const plan::Plan& plan) {
  return plan.ring.size() > 1 || streams(plan.ring.front()) || !plan.left_out.empty() ||
         !plan.ring.front().gpu_names.empty();
}

ring::DeviceShare share_of(const plan::DevicePlan& device, const profile::DeviceProfile* profile) {
  ring::DeviceShare share;
  share.memory = ring::kAllInMemory;
  if (streams(device)) {
    // The plan's budget leaves the compute buffers out, the device's counts them.
    share.memory = device.budget_bytes + device.compute_buffer_bytes;
    share.slot_bytes = device.slot_bytes;
  }
  const std::size_t n_gpus = profile != nullptr ? profile->gpus.size() : device.gpu_names.size();
  for (std::size_t gpu = 0; gpu < n_gpus; ++gpu) {
    compute::GpuPlacement placement;
    placement.device = profile != nullptr ? profile->gpus[gpu].name : device.gpu_names[gpu];
    placement.output_layer = device.output_gpu == static_cast<int>(gpu);
    for (const plan::Window& window : device.windows) {
      std::uint32_t first = window.first_layer;
      for (std::size_t before = 0; before < gpu; ++before) first += window.gpu_layers[before];
      if (window.gpu_layers[gpu] > 0) {
        placement.layers.push_back({first, first + window.gpu_layers[gpu]});
      }
    }
    if (!placement.layers.empty() || placement.output_layer) {
      share.gpus.push_back(std::move(placement));
    }
  }
  if (const plan::PromptPlan& prompts = device.prompts; prompts.gpu >= 0) {
    const auto gpu = static_cast<std::size_t>(prompts.gpu);
    share.prompt_room = {profile != nullptr ? profile->gpus[gpu].name : device.gpu_names[gpu],
                         prompts.room_bytes};
  }
  return share;
}

// The device that is planned with of those that share a computer with device i: the head, or the
// first of those with the most memory; i itself where it shares none.
std::size_t stands_for(const std::vector<std::optional<profile::DeviceProfile>>& profiles,
                       std::size_t i) {
  if (i == ring::kHead || profiles[i]->computer.empty()) return i;
  std::size_t best = i;
  for (std::size_t other = 0; other < profiles.size(); ++other) {
    if (!profiles[other] || profiles[other]->computer != profiles[i]->computer) continue;
    if (other == ring::kHead) return other;
    const Bytes most = profiles[best]->memory_available_bytes;
    const Bytes memory = profiles[other]->memory_available_bytes;
    if (memory > most || (memory == most && other < best)) best = other;
  }
  return best;
}

class Planner {
 public:
  Planner(const model::ModelFile& model, DeviceOptions options, std::uint32_t n_ctx)
      : model_(model),
        options_(std::move(options)),
        kv_type_(kv_type_of(options_)),
        shape_(planned_shape(model, kv_type_)) {
    request_.n_ctx = n_ctx;
    request_.prompt_tokens = std::min(request_.prompt_tokens, std::max(1u, n_ctx / 2));
    request_.answer_tokens = std::min(request_.answer_tokens, n_ctx / 2);
    request_.link_formats = {link_format(options_.link_type)};
    executor_.kv_type = kv_type_of(options_);
    static_cast<void>(apply(options_.processor, executor_));  // check() has seen it succeed
    request_.step_tokens = step_tokens(options_, executor_, n_ctx, model.hyperparameters());
  }

  std::uint32_t most_step_tokens() const { return request_.step_tokens; }

  Result<std::string> profile() const { return profile_text(/*only_known=*/false); }
  Result<std::string> learned_profile() const { return profile_text(/*only_known=*/true); }

  Result<ring::RingPlan> plan(const ring::RingOffer& offer) {
    if (options_.plan_file) return plan_from_file(offer);
    PRIMA_ASSIGN_OR_RETURN(const OfferedCluster offered, cluster_of(offer));
    keep_links(offer);
    PRIMA_ASSIGN_OR_RETURN(
        plan::Plan plan,
        plan_with_fitting_steps(offered.cluster, shape_, request_, model_.hyperparameters()));
    PRIMA_ASSIGN_OR_RETURN(plan.left_out, plan::left_out_of(plan, offered.cluster, shape_));
    plan.left_out.insert(plan.left_out.end(), offered.unplanned.begin(), offered.unplanned.end());
    // Where a device alone holds all, there is nothing to tell.
    if (is_worth_telling(plan)) {
      std::fprintf(stderr, "%s\n", plan_summary(plan).c_str());
    } else {
      log::info("{}", plan_summary(plan));
    }
    plan_ = plan;
    return ring_plan_of(plan, offered.devices, offered.cluster.devices);
  }

  // Why the plan for another offer is worth more than loading it costs.
  std::optional<std::string> better(const ring::RingOffer& offer) const {
    const auto offered = cluster_of(offer);
    if (!offered || !plan_) return std::nullopt;
    const auto again = plan::replan(*plan_, offered->cluster, shape_);
    if (!again || !again->worth_it) return std::nullopt;
    return again->reason;
  }

  // Measures only where there is something to decide: a GPU, or weights that do not fit.
  Result<ring::DeviceShare> alone() {
    ring::RingOffer offer{{{ring::host_name(), "", "", ""}}, {}};
    if (options_.plan_file) {
      PRIMA_ASSIGN_OR_RETURN(const ring::RingPlan plan, plan_from_file(offer));
      return plan.shares.front();
    }
    if (options_.processor.gpu_layers > 0) return ring::DeviceShare{};  // said by hand
    const bool decides = !fits() || !compute::list_gpus().empty();
    auto profile = profile_text(/*only_known=*/!decides);
    if (!profile && decides) return tl::unexpected(std::move(profile.error()));
    if (!profile) return ring::DeviceShare{};
    offer.devices.front().profile = std::move(*profile);
    const auto plan = this->plan(offer);
    // Too little memory, by the plan's reckoning: loading finds out to the byte, and says what is
    // enough.
    return plan ? plan->shares.front() : ring::DeviceShare{};
  }

  Result<ring::RingOffer> offer_alone() const {
    ring::RingOffer offer;
    PRIMA_ASSIGN_OR_RETURN(std::string profile, this->profile());
    offer.devices.push_back({ring::host_name(), "", std::move(profile), ""});
    return offer;
  }

  void keep_links(const ring::RingOffer& offer) const {
    const std::size_t n = offer.devices.size();
    for (std::size_t a = 0; a < n; ++a) {
      for (std::size_t b = a + 1; b < n; ++b) {
        const auto& link = offer.links[plan::link_index(n, a, b)];
        if (!link) continue;
        // Not kept: measured again next time.
        static_cast<void>(
            profile_cache().store_link(link_key(offer.devices[a], offer.devices[b]), *link));
      }
    }
  }

 private:
  Result<std::string> profile_text(bool only_known) const {
    PRIMA_ASSIGN_OR_RETURN(
        const auto result,
        profile_this_device(model_, {.executor = executor_, .only_known = only_known}));
    return profile::to_json(result.profile);
  }

  // Whether this device alone can hold everything.
  bool fits() const {
    if (!executor_.memory) return true;  // a system that does not say
    return plan::weight_bytes(shape_) + plan::kv_bytes(shape_, request_.n_ctx) +
               shape_.buffer_bytes <=
           executor_.memory->for_layers();
  }

  Result<ring::RingPlan> plan_from_file(const ring::RingOffer& offer) const {
    PRIMA_ASSIGN_OR_RETURN(const std::string text, read_text_file(*options_.plan_file));
    PRIMA_ASSIGN_OR_RETURN(plan::Plan plan,
                           plan::plan_from_json(text, options_.plan_file->string()));
    if (plan.n_layer != shape_.layers.size()) {
      return fail(ErrorCode::invalid_argument,
                  options_.plan_file->string() + " is for a model of " +
                      std::to_string(plan.n_layer) + " layers, this one has " +
                      std::to_string(shape_.layers.size()),
                  "Make a plan for this model");
    }
    if (plan.request.n_ctx < request_.n_ctx) {
      return fail(ErrorCode::invalid_argument,
                  options_.plan_file->string() + " leaves room for " +
                      std::to_string(plan.request.n_ctx) + " tokens of context, not for " +
                      std::to_string(request_.n_ctx),
                  "Ask for a context of " + std::to_string(plan.request.n_ctx) + " (-c)");
    }
    std::vector<std::uint32_t> devices;
    for (std::size_t place = 0; place < plan.ring.size(); ++place) {
      plan::DevicePlan& device = plan.ring[place];
      device.device = place;
      std::uint32_t found = ring::kHead;  // this device is the head, whatever it is called
      if (place > 0) {
        for (found = 1; found < offer.devices.size(); ++found) {
          if (offer.devices[found].name == device.name) break;
        }
      }
      if (found == offer.devices.size()) {
        std::string there;
        for (std::size_t i = 1; i < offer.devices.size(); ++i) {
          there += (there.empty() ? "" : ", ") + offer.devices[i].name;
        }
        return fail(ErrorCode::not_found,
                    options_.plan_file->string() + " needs " + device.name +
                        ", which has not joined" + (there.empty() ? "" : "; there are " + there),
                    "Start prima join on it with --name " + device.name);
      }
      devices.push_back(found);
    }
    std::fprintf(stderr, "%s\n", plan_summary(plan).c_str());
    return ring_plan_of(plan, devices, {});
  }

  const model::ModelFile& model_;
  const DeviceOptions options_;
  const ggml_type kv_type_;
  const plan::ModelShape shape_;
  plan::Request request_;
  compute::ExecutorOptions executor_;  // this device's memory as it is now
  std::optional<plan::Plan> plan_;     // in force
};

}  // namespace

Result<OfferedCluster> cluster_of(const ring::RingOffer& offer) {
  OfferedCluster offered;
  std::vector<std::optional<profile::DeviceProfile>> profiles(offer.devices.size());
  for (std::uint32_t i = 0; i < offer.devices.size(); ++i) {
    const ring::OfferedDevice& device = offer.devices[i];
    auto profile = profile::profile_from_json(device.profile, "the profile of " + device.name);
    if (!profile) {
      const std::string why = device.problem.empty() ? profile.error().message() : device.problem;
      if (i == ring::kHead) return tl::unexpected(profile.error());
      offered.unplanned.push_back({i, device.name, why});
      continue;
    }
    if (i != ring::kHead && profile->memory_available_bytes == 0) {
      offered.unplanned.push_back({i, device.name, "it has no memory to spare"});
      continue;
    }
    profile->name = device.name;
    profiles[i] = std::move(*profile);
  }
  for (std::uint32_t i = 0; i < profiles.size(); ++i) {
    if (!profiles[i]) continue;
    if (const auto other = stands_for(profiles, i); other != i) {
      offered.unplanned.push_back({i, profiles[i]->name,
                                   "it is a process of the same computer as " +
                                       profiles[other]->name +
                                       " and has no memory of its own (--memory gives it some)"});
      continue;
    }
    // Two devices may have the same name.
    profile::DeviceProfile profile = *profiles[i];
    for (const profile::DeviceProfile& other : offered.cluster.devices) {
      if (other.name == profile.name) profile.name += " (" + std::to_string(i) + ")";
    }
    offered.cluster.devices.push_back(std::move(profile));
    offered.devices.push_back(i);
  }
  const std::size_t n = offer.devices.size();
  for (std::size_t a = 0; a < offered.devices.size(); ++a) {
    for (std::size_t b = a + 1; b < offered.devices.size(); ++b) {
      const auto& link = offer.links[plan::link_index(n, offered.devices[a], offered.devices[b])];
      offered.cluster.links.push_back(link.value_or(kUnreachable));
    }
  }
  return offered;
}

namespace {

// The device whose disk is the last to have read what it streams.
struct SlowestReader {
  double seconds = 0;  // for all of it
  double bytes_per_second = 0;
  Bytes buffers = 0;
};

std::optional<SlowestReader> slowest_reader(const plan::Cluster& cluster, const plan::Plan& plan) {
  std::optional<SlowestReader> slowest;
  for (const plan::DevicePlan& device : plan.ring) {
    const double speed = cluster.devices[device.device].disk_read_bytes_per_second;
    if (device.streamed_bytes == 0 || speed <= 0) continue;
    const double seconds = static_cast<double>(device.streamed_bytes) / speed;
    if (!slowest || seconds > slowest->seconds) {
      slowest = {seconds, speed, device.compute_buffer_bytes};
    }
  }
  return slowest;
}

// The plan's own figure counts what is streamed once or a few times for all of a prompt. Here each
// step reads it anew, while it computes.
double prompt_seconds(const plan::Plan& plan, const SlowestReader& reader) {
  const double prompt = std::max(1u, plan.request.prompt_tokens);
  const double step = std::min<double>(prompt, plan.request.step_tokens);
  return std::ceil(prompt / step) * std::max(plan.ttft_seconds * step / prompt, reader.seconds);
}

// A plan keeps layers whole, a device keeps as much as fits: what buffers leave is read no more.
bool is_better(const plan::Cluster& cluster, const plan::Plan& smaller, const plan::Plan& plan) {
  constexpr double kNoise = 1.01;             // of searches
  constexpr double kMostPromptLonger = 1.25;  // where the prompt does not count
  if (smaller.objective_seconds > kNoise * plan.objective_seconds) return false;
  const auto before = slowest_reader(cluster, plan);
  const auto after = slowest_reader(cluster, smaller);
  if (!before || !after) return before.has_value();
  const double read_less =
      (static_cast<double>(before->buffers) - static_cast<double>(after->buffers)) /
      before->bytes_per_second;
  const double per_token = std::max(read_less, plan.tpot_seconds - smaller.tpot_seconds);
  const double prompt_before = prompt_seconds(plan, *before);
  const double prompt_after = prompt_seconds(smaller, *after);
  switch (plan.request.objective) {
    case plan::Objective::answer:
      return plan.request.answer_tokens * per_token > prompt_after - prompt_before;
    case plan::Objective::ttft: return prompt_after < prompt_before;
    case plan::Objective::tpot:
    case plan::Objective::throughput: break;
  }
  return per_token > 0 && prompt_after < kMostPromptLonger * prompt_before;
}

// Where weights are streamed, every byte of compute buffers is a byte more to read for every token.
// Smaller steps cost a prompt more of them, each of which reads what is streamed. (A device alone
// has all to stream, and its steps are as large as its memory suits.)
Result<plan::Plan> with_smaller_steps(const plan::Cluster& cluster, const plan::ModelShape& shape,
                                      plan::Request request, plan::Plan plan) {
  while (plan.ring.size() > 1 && slowest_reader(cluster, plan)) {
    request.step_tokens /= 2;
    request.step_tokens -= request.step_tokens % compute::kFewestStepTokens;
    if (request.step_tokens == 0) return plan;
    auto smaller = plan::make_plan(cluster, shape, request);
    if (!smaller || smaller->ring.size() == 1 || !is_better(cluster, *smaller, plan)) return plan;
    plan = *std::move(smaller);
  }
  return plan;
}

}  // namespace

Result<plan::Plan> plan_with_fitting_steps(const plan::Cluster& cluster,
                                           const plan::ModelShape& shape, plan::Request request,
                                           const model::Hyperparameters& model) {
  while (true) {
    PRIMA_ASSIGN_OR_RETURN(plan::Plan plan, plan::make_plan(cluster, shape, request));
    std::uint32_t fitting = request.step_tokens;
    for (const plan::DevicePlan& device : plan.ring) {
      if (device.device == cluster.head) continue;  // what it allows was asked for
      const Bytes memory = cluster.devices[device.device].memory_available_bytes;
      fitting = compute::step_tokens_within({.total = memory}, model, fitting);
    }
    if (fitting >= request.step_tokens) {
      return with_smaller_steps(cluster, shape, request, std::move(plan));
    }
    request.step_tokens = fitting;
  }
}

Result<JoinedCluster> joined_cluster(const model::ModelFile& model, const DeviceOptions& options,
                                     std::uint32_t n_ctx) {
  const Planner planner(model, options, n_ctx);
  std::optional<OfferedCluster> joined;
  // Having seen the offer, it wants no ring.
  const auto look = [&](const ring::RingOffer& offer) -> Status {
    PRIMA_ASSIGN_OR_RETURN(joined, cluster_of(offer));
    planner.keep_links(offer);
    return fail(ErrorCode::cancelled, "Cancelled");
  };
  ring::RingOptions formation = ring_options(options, n_ctx, model);
  formation.make_planning = [&](const model::ModelFile&) {
    return ring::RingPlanning{.profile = [&] { return planner.profile(); },
                              .known_link = known_link,
                              .plan = [&](const ring::RingOffer& offer) -> Result<ring::RingPlan> {
                                return tl::unexpected(look(offer).error());
                              },
                              .better = {},
                              .alone = [&]() -> Result<ring::DeviceShare> {
                                PRIMA_ASSIGN_OR_RETURN(const ring::RingOffer offer,
                                                       planner.offer_alone());
                                return tl::unexpected(look(offer).error());
                              }};
  };
  const InterruptGuard interrupt;
  const auto ring = form_ring_visibly(model, formation, interrupt);
  if (joined) return JoinedCluster{std::move(*joined), planner.most_step_tokens()};
  return tl::unexpected(ring.error());
}

ring::RingPlan ring_plan_of(const plan::Plan& plan, const std::vector<std::uint32_t>& devices,
                            const std::vector<profile::DeviceProfile>& profiles) {
  ring::RingPlan result;
  result.rounds = plan.rounds;
  result.max_tokens = plan.request.step_tokens;
  for (const plan::DevicePlan& device : plan.ring) {
    result.devices.push_back(devices[device.device]);
    result.shares.push_back(
        share_of(device, profiles.empty() ? nullptr : &profiles[device.device]));
  }
  for (std::uint32_t round = 0; round < plan.rounds; ++round) {
    for (std::uint32_t place = 0; place < plan.ring.size(); ++place) {
      const plan::Window& window = plan.ring[place].windows[round];
      if (window.n_layers == 0) continue;
      const std::uint32_t last = window.first_layer + window.n_layers;
      auto& hops = result.route.hops;
      if (!hops.empty() && hops.back().device == place) {
        hops.back().layers.last = last;
      } else {
        hops.push_back({place, round, {window.first_layer, last}});
      }
    }
  }
  result.link_type = link_type(plan.ring.front().link_format);
  return result;
}

std::string plan_summary(const plan::Plan& plan) {
  std::string text = "Plan: ";
  for (const plan::DevicePlan& device : plan.ring) {
    std::uint32_t layers = 0;
    std::uint32_t on_gpus = 0;
    for (const plan::Window& window : device.windows) {
      layers += window.n_layers;
      for (const std::uint32_t n : window.gpu_layers) on_gpus += n;
    }
    if (&device != &plan.ring.front()) text += ", ";
    text += device.name + " " + std::to_string(layers) + (layers == 1 ? " layer" : " layers");
    if (on_gpus > 0) text += " (" + std::to_string(on_gpus) + " on GPUs)";
    if (device.prompts.gpu >= 0) {
      text += " (prompts of " + std::to_string(device.prompts.from_tokens) +
              " tokens and more wholly on GPUs)";
    }
    if (streams(device)) {
      text += " (" + format_bytes(static_cast<Bytes>(device.read_bytes_per_token)) +
              " from disk per token)";
    }
  }
  if (plan.rounds > 1) text += ", in " + std::to_string(plan.rounds) + " rounds";
  text += printed(
      plan.tpot_seconds < 0.1 ? "; expected: %.1f ms per token" : "; expected: %.0f ms per token",
      1e3 * plan.tpot_seconds);
  text += printed(", the first of a %u-token prompt after %.1f s", plan.request.prompt_tokens,
                  plan.ttft_seconds);
  if (!plan.bottleneck.empty()) text += ".\n" + plan.bottleneck;
  for (const plan::LeftOut& device : plan.left_out) {
    text += "\nWithout " + device.name + ": " + device.reason;
  }
  return text;
}

std::function<ring::RingPlanning(const model::ModelFile&)> make_planner(
    const DeviceOptions& options, std::uint32_t n_ctx) {
  return [options, n_ctx](const model::ModelFile& model) {
    const auto planner = std::make_shared<Planner>(model, options, n_ctx);
    ring::RingPlanning planning{
        .profile = [planner] { return planner->profile(); },
        .learned_profile = [planner] { return planner->learned_profile(); },
        .known_link = known_link,
        .plan = [planner](const ring::RingOffer& offer) { return planner->plan(offer); },
        .better = [planner](const ring::RingOffer& offer) { return planner->better(offer); },
        .alone = [planner] { return planner->alone(); }};
    if (options.plan_file) {  // what the plan was made from is known, and it stays
      planning.profile = {};
      planning.learned_profile = {};
    }
    return planning;
  };
}

}  // namespace prima::cli

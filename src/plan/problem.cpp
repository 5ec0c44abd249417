#include "plan/problem.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "plan/infinity.h"

namespace prima::plan {
namespace {

using profile::DeviceProfile;
using profile::GpuProfile;
using profile::LayerTimes;
using profile::LinkProfile;
using profile::TokenTimes;

// More steps than this are never in flight: a ring of n devices gains nothing beyond n, and each
// step's own work grows relatively dearer.
constexpr std::uint32_t kMaxSteps = 8;
// A prompt is not cut into steps smaller than this: below it, layers are bound by memory, and more
// steps only read the weights more often.
constexpr std::uint32_t kMinPrefillTokens = 16;

bool is_time_table(const TokenTimes& times) {
  double previous = 0;
  for (const double seconds : times.seconds) {
    if (!std::isfinite(seconds) || seconds <= 0 || seconds < previous) return false;
    previous = seconds;
  }
  return true;
}

bool is_zero(const TokenTimes& times) {
  return std::all_of(times.seconds.begin(), times.seconds.end(),
                     [](double seconds) { return seconds == 0; });
}

bool is_rate(double per_second) { return std::isfinite(per_second) && per_second > 0; }

Status validate_layers(const std::string& where, const std::vector<LayerTimes>& layers,
                       const ModelShape& shape) {
  if (layers.size() != shape.classes.size()) {
    return fail(ErrorCode::invalid_argument,
                where + " has times for " + std::to_string(layers.size()) +
                    " classes of layers, the model has " + std::to_string(shape.classes.size()),
                "Profile the device with this model");
  }
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const LayerTimes& times = layers[i];
    const bool has_long = times.long_context_tokens > times.short_context_tokens;
    if (!is_time_table(times.short_context_seconds) ||
        (has_long && !is_time_table(times.long_context_seconds))) {
      return fail(ErrorCode::invalid_argument,
                  where + ": the times of layer class " + std::to_string(i) + " (" +
                      shape.classes[i].name + ") are not positive and rising with tokens",
                  "Profile the device again");
    }
  }
  return {};
}

Bytes least_layer_bytes(const ModelShape& shape) {
  Bytes least = std::numeric_limits<Bytes>::max();
  for (const LayerClass& layer : shape.classes) least = std::min(least, weight_bytes(layer));
  return least;
}

Status validate(const DeviceProfile& device, bool is_head, const ModelShape& shape) {
  const std::string where = "device " + device.name;
  if (device.memory_available_bytes == 0) {
    return fail(
        ErrorCode::invalid_argument, where + " has no memory available",
        "Leave it out, or give it at least " +
            format_bytes(shape.program_bytes + shape.buffer_bytes + least_layer_bytes(shape)) +
            ", which the program, one layer and its buffers take");
  }
  if (!(device.disk_read_bytes_per_second >= 0) ||
      !std::isfinite(device.disk_read_bytes_per_second)) {
    return fail(ErrorCode::invalid_argument, where + ": the disk's speed is not a number",
                "Use 0 for a disk that nothing can be streamed from");
  }
  PRIMA_RETURN_IF_ERROR(validate_layers(where + "'s CPU", device.cpu_layers, shape));
  if (!device.cpu_budgeted_layers.empty()) {
    PRIMA_RETURN_IF_ERROR(
        validate_layers(where + "'s CPU within a budget", device.cpu_budgeted_layers, shape));
  }
  if (is_head && shape.output_bytes > 0 && !is_time_table(device.cpu_output_seconds)) {
    return fail(ErrorCode::invalid_argument,
                where + ": the output layer's times are not positive and rising with tokens",
                "Profile the device again");
  }
  for (const GpuProfile& gpu : device.gpus) {
    const std::string name = where + "'s GPU " + gpu.name;
    PRIMA_RETURN_IF_ERROR(validate_layers(name, gpu.layers, shape));
    if (!is_rate(gpu.copy_to_bytes_per_second) || !is_rate(gpu.copy_from_bytes_per_second) ||
        !(gpu.copy_latency_seconds >= 0)) {
      return fail(ErrorCode::invalid_argument, name + ": copies need a speed above zero",
                  "Profile the device again");
    }
    if (!is_zero(gpu.output_seconds) && !is_time_table(gpu.output_seconds)) {
      return fail(ErrorCode::invalid_argument,
                  name + ": the output layer's times are not positive and rising with tokens",
                  "Profile the device again");
    }
  }
  return {};
}

std::vector<double> backend_seconds(const std::vector<LayerTimes>& layers, const TokenTimes& output,
                                    double tokens, double output_tokens, double context_tokens) {
  std::vector<double> seconds;
  for (const LayerTimes& times : layers) {
    seconds.push_back(profile::layer_seconds(times, tokens, context_tokens));
  }
  seconds.push_back(profile::seconds_for_tokens(output, output_tokens));
  return seconds;
}

StepCosts::Hop hop_costs(const LinkProfile& link, bool forward, double elements) {
  StepCosts::Hop hop;
  hop.latency_seconds = link.round_trip_seconds / 2;
  hop.shared_medium = link.shared_medium;
  const double bandwidth = forward ? link.forward_bytes_per_second : link.backward_bytes_per_second;
  for (const LinkFormat format : {LinkFormat::f32, LinkFormat::f16, LinkFormat::q8_0}) {
    hop.transmit_seconds[static_cast<int>(format)] =
        elements * bytes_per_element(format) / bandwidth;
  }
  return hop;
}

using Processor = StepCosts::Device::Processor;

// So many tokens after so many others.
struct StepSize {
  double tokens = 1;
  double output_tokens = 1;
  double context_tokens = 0;
};

// The processor's layers where they visit the GPU's memory; those of `cpu` where that takes more
// tokens. The device's steps are no larger than the request's.
Processor visiting(const Processor& cpu, const Visit& visit, const ModelShape& shape,
                   const Request& request, std::uint32_t places, StepSize size) {
  const double parts = std::ceil(size.tokens / request.step_tokens);
  const double tokens = size.tokens / parts;
  if (tokens < visits_from_tokens(visit, shape, request)) return cpu;
  Processor processor{.seconds = {}, .run_seconds = 0, .on_gpu = true};
  for (std::size_t c = 0; c < shape.classes.size(); ++c) {
    const VisitSeconds seconds = visit_seconds(visit, shape, c, tokens, size.context_tokens);
    processor.seconds.push_back(parts * seconds.of_layer(places));
    if (c == typical_class(shape)) processor.run_seconds = parts * seconds.of_run(places);
  }
  processor.seconds.push_back(cpu.seconds.back());
  return processor;
}

// Of each the less.
Processor either(const Processor& a, const Processor& b) {
  Processor least = a;
  for (std::size_t c = 0; c < least.seconds.size(); ++c) {
    least.seconds[c] = std::min(a.seconds[c], b.seconds[c]);
  }
  least.run_seconds = std::min(a.run_seconds, b.run_seconds);
  return least;
}

void add_cpu(StepCosts::Device& mine, const DeviceProfile& device, StepSize size) {
  auto& [unbudgeted, budgeted, least] = mine.cpu;
  unbudgeted.seconds = backend_seconds(device.cpu_layers, device.cpu_output_seconds, size.tokens,
                                       size.output_tokens, size.context_tokens);
  budgeted = unbudgeted;
  if (!device.cpu_budgeted_layers.empty()) {
    budgeted.seconds =
        backend_seconds(device.cpu_budgeted_layers, device.cpu_budgeted_output_seconds, size.tokens,
                        size.output_tokens, size.context_tokens);
    // The relaxed problem takes the faster for what nothing undercuts; that the budget costs less
    // than nothing is noise.
    for (std::size_t i = 0; i < budgeted.seconds.size(); ++i) {
      budgeted.seconds[i] = std::max(budgeted.seconds[i], unbudgeted.seconds[i]);
    }
  }
  least = either(unbudgeted, budgeted);
}

void add_gpu(StepCosts::Device& mine, const DeviceProfile& device, const GpuProfile& gpu,
             const ModelShape& shape, const Request& request, StepSize size) {
  auto& seconds = mine.gpu_seconds.emplace_back(backend_seconds(
      gpu.layers, gpu.output_seconds, size.tokens, size.output_tokens, size.context_tokens));
  if (is_zero(gpu.output_seconds)) seconds.back() = kInfinity;
  const double bytes = size.tokens * shape.n_embd * sizeof(float);
  mine.gpu_copy_seconds.push_back(2 * gpu.copy_latency_seconds +
                                  bytes / gpu.copy_to_bytes_per_second +
                                  bytes / gpu.copy_from_bytes_per_second);
  auto& visits = mine.visits.emplace_back();
  for (std::uint32_t places = 1; places <= kMostVisitPlaces; ++places) {
    auto& [unbudgeted, budgeted, least] = visits[places - 1];
    unbudgeted = visiting(mine.cpu[0], {device, gpu, false}, shape, request, places, size);
    budgeted = visiting(mine.cpu[1], {device, gpu, true}, shape, request, places, size);
    least = either(unbudgeted, budgeted);
  }
}

StepCosts step_costs(const Cluster& cluster, const ModelShape& shape, const Request& request,
                     StepSize size, std::uint32_t steps) {
  StepCosts costs;
  costs.tokens = size.tokens;
  costs.steps = steps;
  for (const LayerClass& layer : shape.classes) {
    costs.expert_ratio.push_back(expert_read_ratio(layer, size.tokens));
  }
  costs.expert_ratio.push_back(1.0);

  for (const DeviceProfile& device : cluster.devices) {
    StepCosts::Device& mine = costs.devices.emplace_back();
    add_cpu(mine, device, size);
    for (const GpuProfile& gpu : device.gpus) add_gpu(mine, device, gpu, shape, request, size);
  }

  const std::size_t n = cluster.devices.size();
  const double hidden_elements = size.tokens * shape.n_embd;
  costs.hops.resize(n * n);
  for (std::size_t a = 0; a < n; ++a) {
    for (std::size_t b = a + 1; b < n; ++b) {
      const LinkProfile& link = cluster.links[link_index(n, a, b)];
      costs.hops[a * n + b] = hop_costs(link, true, hidden_elements);
      costs.hops[b * n + a] = hop_costs(link, false, hidden_elements);
    }
  }
  return costs;
}

// Those with which some step that the objective depends on is faster, and that a GPU has.
std::vector<PromptRoom> rooms_of(const Problem& problem, std::size_t device) {
  std::vector<PromptRoom> rooms;
  const auto& vram = problem.vram_budget[device];
  for (std::size_t gpu = 0; gpu < vram.size(); ++gpu) {
    for (std::uint32_t places = 1; places <= kMostVisitPlaces; ++places) {
      const PromptRoom room{static_cast<int>(gpu), places};
      const auto helps = [&](const StepCosts* costs) {
        const StepCosts::Device& mine = costs->devices[device];
        return mine.processor(Weights::unbudgeted, room).on_gpu ||
               mine.processor(Weights::budgeted, room).on_gpu;
      };
      const auto kinds = problem.kinds();
      if (problem.bytes_of(room) > vram[gpu]) continue;
      if (std::any_of(kinds.begin(), kinds.end(), helps)) rooms.push_back(room);
    }
  }
  return rooms;
}

Bytes less(Bytes a, Bytes b) { return a > b ? a - b : 0; }

}  // namespace

const char* to_string(Objective objective) {
  switch (objective) {
    case Objective::answer: return "answer";
    case Objective::tpot: return "tpot";
    case Objective::ttft: return "ttft";
    case Objective::throughput: return "throughput";
  }
  return "?";
}

const char* to_string(LinkFormat format) {
  switch (format) {
    case LinkFormat::f32: return "f32";
    case LinkFormat::f16: return "f16";
    case LinkFormat::q8_0: return "q8_0";
  }
  return "?";
}

double bytes_per_element(LinkFormat format) {
  switch (format) {
    case LinkFormat::f32: return 4;
    case LinkFormat::f16: return 2;
    case LinkFormat::q8_0: return 34.0 / 32;  // 32 elements and their scale
  }
  return 4;
}

std::vector<const StepCosts*> Problem::kinds() const {
  std::vector<const StepCosts*> kinds{&decode};
  if (request.objective == Objective::answer || request.objective == Objective::ttft) {
    for (const StepCosts& costs : prefill) kinds.push_back(&costs);
  }
  if (request.objective == Objective::throughput) {
    for (const StepCosts& costs : batch) kinds.push_back(&costs);
  }
  return kinds;
}

Status validate(const Cluster& cluster, const ModelShape& shape) {
  const std::size_t n = cluster.devices.size();
  if (n == 0) {
    return fail(ErrorCode::invalid_argument, "the cluster has no devices", "Give it at least one");
  }
  if (cluster.head >= n) {
    return fail(ErrorCode::invalid_argument, "the head is not among the cluster's devices",
                "Name one of them");
  }
  std::set<std::string> names;
  for (const DeviceProfile& device : cluster.devices) {
    if (!names.insert(device.name).second) {
      return fail(ErrorCode::invalid_argument, "two devices are named " + device.name,
                  "Give each its own name");
    }
    const bool is_head = &device == &cluster.devices[cluster.head];
    PRIMA_RETURN_IF_ERROR(validate(device, is_head, shape));
  }
  if (cluster.links.size() != link_count(n)) {
    return fail(
        ErrorCode::invalid_argument,
        std::to_string(cluster.links.size()) + " links between " + std::to_string(n) + " devices",
        "Describe each pair once");
  }
  for (std::size_t a = 0; a < n; ++a) {
    for (std::size_t b = a + 1; b < n; ++b) {
      const LinkProfile& link = cluster.links[link_index(n, a, b)];
      if (is_rate(link.forward_bytes_per_second) && is_rate(link.backward_bytes_per_second) &&
          std::isfinite(link.round_trip_seconds) && link.round_trip_seconds >= 0) {
        continue;
      }
      return fail(ErrorCode::invalid_argument,
                  "the link between " + cluster.devices[a].name + " and " +
                      cluster.devices[b].name + " has no bandwidth or no round trip time",
                  "Measure it, or leave one of them out");
    }
  }
  return {};
}

Status validate(const Request& request, const ModelShape& shape) {
  const auto bad = [](const char* what, const char* remedy) {
    return fail(ErrorCode::invalid_argument, what, remedy);
  };
  if (request.n_ctx == 0) return bad("a context of 0 tokens", "Ask for at least 1");
  if (shape.n_ctx_train > 0 && request.n_ctx / shape.n_ctx_train > 1024) {
    return bad("the context is more than 1024 times what the model was trained for",
               "Ask for less");
  }
  if (request.step_tokens == 0) return bad("steps of 0 tokens", "Allow at least 1");
  if (request.prompt_tokens == 0) return bad("a prompt of 0 tokens", "Plan for at least 1");
  if (request.sequences == 0) return bad("0 sequences", "Plan for at least 1");
  if (request.link_formats.empty()) return bad("no link format is allowed", "Allow f32");
  return {};
}

Result<Problem> make_problem(const Cluster& cluster, const ModelShape& shape,
                             const Request& request) {
  PRIMA_RETURN_IF_ERROR(validate(shape));
  PRIMA_RETURN_IF_ERROR(validate(request, shape));
  PRIMA_RETURN_IF_ERROR(validate(cluster, shape));

  Problem problem{cluster, shape, request, {}, {}, {}, {}, {}, {}, 0, 0, {}, {}, {}};
  for (std::uint32_t places = 1; places <= kMostVisitPlaces; ++places) {
    problem.room_bytes[places - 1] = visit_room_bytes(shape, request, places);
  }
  for (const LayerClass& layer : shape.classes) {
    problem.classes.push_back({layer.dense_bytes, layer.expert_bytes * layer.n_expert,
                               kv_bytes(layer, request.n_ctx), layer.stages});
  }
  problem.classes.push_back({shape.output_bytes, 0, 0, shape.output_stages});
  for (const DeviceProfile& device : cluster.devices) {
    const bool is_measured = device.compute_buffer_bytes > 0;
    const Bytes buffers = is_measured ? device.compute_buffer_bytes : shape.buffer_bytes;
    problem.buffers.push_back(buffers * request.step_tokens / profile::kProfiledStepTokens);
    // What was measured leaves the program out.
    const Bytes others = device.memory_reserve_bytes + (is_measured ? 0 : shape.program_bytes);
    problem.budget.push_back(
        less(less(device.memory_available_bytes, others), problem.buffers.back()));
    auto& vram = problem.vram_budget.emplace_back();
    for (const GpuProfile& gpu : device.gpus) {
      vram.push_back(device.unified_memory ? problem.budget.back()
                                           : less(gpu.vram_available_bytes,
                                                  std::max(gpu.vram_reserve_bytes,
                                                           gpu_buffer_bytes(shape, request))));
    }
  }
  problem.slot_grid = request.slot_grid_bytes > 0 ? request.slot_grid_bytes : shape.piece_bytes;
  Bytes least = 2 * shape.piece_bytes;
  for (const LayerClass& layer : shape.classes) {
    for (const Bytes stage : layer.stages) least = std::max(least, stage);
  }
  const Bytes grids = (least + problem.slot_grid - 1) / problem.slot_grid;
  problem.min_slots = grids * problem.slot_grid;

  // Attention reads the cache: at half the prompt on average in prefill, half the answer after it
  // in decoding.
  const double decode_context = request.prompt_tokens + request.answer_tokens / 2.0;
  problem.decode = step_costs(cluster, shape, request, {1, 1, decode_context}, 1);
  for (std::uint32_t steps = 1; steps <= kMaxSteps; steps *= 2) {
    if (steps > 1 && request.prompt_tokens / steps < kMinPrefillTokens) break;
    const double tokens = static_cast<double>(request.prompt_tokens) / steps;
    problem.prefill.push_back(
        step_costs(cluster, shape, request, {tokens, 1, request.prompt_tokens / 2.0}, steps));
  }
  for (std::uint32_t steps = 1; steps <= std::min(kMaxSteps, request.sequences); steps *= 2) {
    const double tokens = static_cast<double>(request.sequences) / steps;
    problem.batch.push_back(
        step_costs(cluster, shape, request, {tokens, tokens, decode_context}, steps));
  }
  for (std::size_t device = 0; device < problem.n_devices(); ++device) {
    problem.rooms.push_back(rooms_of(problem, device));
  }
  return problem;
}

}  // namespace prima::plan

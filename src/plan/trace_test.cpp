// Every figure that `prima plan` prints follows from entries of the profiles: worked out here from
// those, without the planner's tables, for random clusters.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <gtest/gtest.h>

#include "plan/halda.h"
#include "plan/plan_drawing.h"
#include "plan/random_cluster.h"

namespace prima::plan {
namespace {

using profile::DeviceProfile;
using profile::layer_seconds;
using profile::LinkProfile;
using profile::seconds_for_tokens;

// Of a token decoded in the middle of the answer.
double context(const Request& request) {
  return request.prompt_tokens + request.answer_tokens / 2.0;
}

// The backend of the i-th layer of a window: a GPU's number, or -1.
int backend_of(const Window& window, std::uint32_t i) {
  for (std::size_t gpu = 0; gpu < window.gpu_layers.size(); ++gpu) {
    if (i < window.gpu_layers[gpu]) return static_cast<int>(gpu);
    i -= window.gpu_layers[gpu];
  }
  return -1;
}

// Profile entries that a device's share of a token adds up to.
struct Traced {
  double compute_seconds = 0;
  double network_seconds = 0;
  Bytes ram_weights = 0;
  Bytes ram_kv = 0;
  std::vector<Bytes> vram;
};

Traced trace(const Plan& plan, std::size_t place, const Cluster& cluster, const ModelShape& shape) {
  const DevicePlan& device = plan.ring[place];
  const DeviceProfile& profile = cluster.devices[device.device];
  Traced traced;
  traced.vram.resize(profile.gpus.size());
  const auto add_copies = [&](int gpu) {
    const double bytes = shape.n_embd * sizeof(float);
    const auto& copies = profile.gpus[static_cast<std::size_t>(gpu)];
    traced.compute_seconds += 2 * copies.copy_latency_seconds +
                              bytes / copies.copy_to_bytes_per_second +
                              bytes / copies.copy_from_bytes_per_second;
  };
  const auto add_memory = [&](int gpu, Bytes weights, Bytes kv) {
    if (gpu >= 0) traced.vram[static_cast<std::size_t>(gpu)] += weights + kv;
    if (gpu >= 0 && !profile.unified_memory) return;
    traced.ram_weights += weights;
    traced.ram_kv += kv;
  };
  for (const Window& window : device.windows) {
    int before = -1;
    for (std::uint32_t i = 0; i < window.n_layers; ++i) {
      const std::uint16_t c = shape.layers[window.first_layer + i];
      const int gpu = backend_of(window, i);
      const auto& times =
          gpu < 0 ? profile.cpu_layers[c] : profile.gpus[static_cast<std::size_t>(gpu)].layers[c];
      traced.compute_seconds += layer_seconds(times, 1, context(plan.request));
      if (gpu >= 0 && gpu != before) add_copies(gpu);
      before = gpu;
      add_memory(gpu, weight_bytes(shape.classes[c]),
                 kv_bytes(shape.classes[c], plan.request.n_ctx));
    }
  }
  if (device.runs_output) {
    const int gpu = device.output_gpu;
    const auto& times = gpu < 0 ? profile.cpu_output_seconds
                                : profile.gpus[static_cast<std::size_t>(gpu)].output_seconds;
    traced.compute_seconds += seconds_for_tokens(times, 1);
    if (gpu >= 0) add_copies(gpu);
    add_memory(gpu, shape.output_bytes, 0);
  }
  if (plan.ring.size() > 1) {
    const std::size_t next = plan.ring[(place + 1) % plan.ring.size()].device;
    const LinkProfile& link =
        cluster.links[link_index(cluster.devices.size(), device.device, next)];
    const double bytes = shape.n_embd * bytes_per_element(device.link_format);
    const double rate =
        device.device < next ? link.forward_bytes_per_second : link.backward_bytes_per_second;
    traced.network_seconds = plan.rounds * (link.round_trip_seconds / 2 + bytes / rate);
  }
  return traced;
}

void expect_near(double value, double expected) {
  EXPECT_NEAR(value, expected, 1e-9 + 1e-6 * std::abs(expected));
}

// What leaving room for prompts rests on: a layer of the class that most layers are of, for a step
// as the prompt's, in parts that the device's steps hold.
void expect_traced(const PromptPlan& prompts, bool in_budget, const DeviceProfile& profile,
                   const RandomCase& random) {
  const ModelShape& shape = random.shape;
  const Request& request = random.request;
  std::vector<std::size_t> counts(shape.classes.size(), 0);
  for (const std::uint16_t c : shape.layers) ++counts[c];
  const auto c =
      static_cast<std::size_t>(std::max_element(counts.begin(), counts.end()) - counts.begin());
  const auto& gpu = profile.gpus[static_cast<std::size_t>(prompts.gpu)];
  const double parts = std::ceil(prompts.step_tokens / request.step_tokens);
  const double tokens = prompts.step_tokens / parts;
  const double context = request.prompt_tokens / 2.0;
  const auto weights = static_cast<double>(weight_bytes(shape.classes[c]));
  const auto kv = static_cast<double>(shape.classes[c].kv_bytes_per_token);
  const double in = 12 * gpu.copy_latency_seconds +
                    (weights + kv * (context + tokens / 2)) / gpu.copy_to_bytes_per_second +
                    (in_budget ? 0 : weights / profile.disk_read_bytes_per_second);
  const double computing = layer_seconds(gpu.layers[c], tokens, context);
  const double out = 2 * gpu.copy_latency_seconds + kv * tokens / gpu.copy_from_bytes_per_second;
  const double longer = prompts.places == 2 ? std::max(in, computing) : in + computing;
  expect_near(prompts.gpu_layer_seconds, parts * (longer + out));
  expect_near(prompts.processor_layer_seconds,
              layer_seconds(profile.cpu_layers[c], prompts.step_tokens, context));
  EXPECT_GE(tokens, prompts.from_tokens);

  Bytes largest = 0;
  Bytes cells = 0;
  for (const LayerClass& layer : shape.classes) {
    largest = std::max(largest, weight_bytes(layer));
    cells = std::max(cells, layer.kv_bytes_per_token * request.n_ctx);
  }
  EXPECT_EQ(prompts.room_bytes,
            prompts.places * (largest + cells) + shape.gpu_scratch_bytes + shape.gpu_matrix_bytes +
                request.step_tokens * (shape.gpu_activation_bytes + 4 * request.n_ctx));
}

double disk_seconds(const DevicePlan& device) {
  return std::accumulate(device.spans.begin(), device.spans.end(), 0.0,
                         [](double sum, const Span& span) {
                           const bool reads = span.activity == Activity::disk_read;
                           return sum + (reads ? span.end_seconds - span.start_seconds : 0);
                         });
}

TEST(Trace, EveryFigureFollowsFromTheProfiles) {
  int planned = 0;
  int streaming = 0;
  int with_room = 0;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    const RandomCase random = random_case(seed);
    const auto plan = make_plan(random.cluster, random.shape, random.request);
    if (!plan) continue;
    ++planned;
    const std::string text = plan_text(*plan, random.cluster, {});
    for (std::size_t place = 0; place < plan->ring.size(); ++place) {
      const DevicePlan& device = plan->ring[place];
      const DeviceProfile& profile = random.cluster.devices[device.device];
      const Traced traced = trace(*plan, place, random.cluster, random.shape);

      // The table of windows.
      EXPECT_EQ(device.budget_bytes,
                profile.memory_available_bytes -
                    std::min(profile.memory_available_bytes,
                             profile.memory_reserve_bytes + random.shape.program_bytes));
      EXPECT_EQ(device.resident_bytes + device.streamed_bytes, traced.ram_weights);
      EXPECT_EQ(device.kv_bytes, traced.ram_kv);
      EXPECT_LE(device.resident_bytes + device.kv_bytes + device.slot_bytes, device.budget_bytes);
      EXPECT_EQ(device.vram_bytes, traced.vram);
      EXPECT_NE(text.find(format_bytes(traced.ram_kv)), std::string::npos);
      EXPECT_NE(text.find(format_bytes(device.budget_bytes)), std::string::npos);

      if (device.prompts.gpu >= 0) {
        ++with_room;
        const bool in_budget = device.slot_bytes > 0 || device.resident_bytes + device.kv_bytes >
                                                            profile.unbudgeted_up_to_bytes;
        expect_traced(device.prompts, in_budget, profile, random);
        EXPECT_NE(text.find(device.name + " leaves " + format_bytes(device.prompts.room_bytes)),
                  std::string::npos);
      }

      // The table of times.
      expect_near(device.time.compute_seconds, traced.compute_seconds);
      if (!random.cluster.links.empty() && !random.cluster.links.front().shared_medium) {
        expect_near(device.time.network_seconds, traced.network_seconds);
      }
      expect_near(device.time.compute_seconds + device.time.disk_wait_seconds +
                      device.time.network_seconds + device.time.idle_seconds,
                  plan->tpot_seconds);
      if (device.slot_bytes > 0) {
        ++streaming;
        EXPECT_LE(device.read_bytes_per_token, static_cast<double>(device.streamed_bytes) + 1);
        EXPECT_NEAR(disk_seconds(device),
                    device.read_bytes_per_token / profile.disk_read_bytes_per_second,
                    0.01 * plan->tpot_seconds);
      } else {
        EXPECT_EQ(device.streamed_bytes, 0u);
        EXPECT_EQ(device.time.disk_wait_seconds, 0);
      }
    }
  }
  // The clusters were worth it.
  EXPECT_GT(planned, 150);
  EXPECT_GT(streaming, 50);
  EXPECT_GT(with_room, 5);
}

}  // namespace
}  // namespace prima::plan

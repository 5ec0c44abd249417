// How long planning takes: 8 devices x 80 layers is to stay below 100 ms, 32 x 126 below 2 s.
#include <cstdlib>
#include <iterator>

#include <benchmark/benchmark.h>

#include "plan/halda.h"
#include "plan/named_shapes.h"
#include "plan/ratings.h"

namespace {

using namespace prima;
using namespace prima::plan;

// Unlike devices, all too small: memories, disks, processors and a few GPUs in turn.
Cluster mixed_cluster(std::size_t n_devices, const ModelShape& shape) {
  constexpr double kMemoryGiB[] = {4.1, 2.4, 9.7, 1.9, 5.1, 6.8, 3.2, 12.0};
  constexpr double kDisk[] = {3.0e9, 0.7e9, 3.0e9, 1.4e9, 2.0e9, 0.4e9, 0.3e9, 5.0e9};
  constexpr double kBandwidth[] = {30e9, 50e9, 35e9, 18e9, 22e9, 25e9, 15e9, 60e9};
  Cluster cluster;
  for (std::size_t i = 0; i < n_devices; ++i) {
    const std::size_t j = i % std::size(kMemoryGiB);
    profile::DeviceProfile& device = cluster.devices.emplace_back();
    device.name = "device" + std::to_string(i);
    // No two alike: each eight a little smaller.
    device.memory_available_bytes = static_cast<Bytes>(
        (kMemoryGiB[j] - 0.07 * static_cast<double>(i / 8)) * static_cast<double>(kGiB));
    device.disk_read_bytes_per_second = kDisk[j] * (1 - 0.03 * static_cast<double>(i / 8));
    const BackendRating cpu{kBandwidth[j], kBandwidth[j] * 12, 20e-6};
    for (const LayerClass& layer : shape.classes) {
      device.cpu_layers.push_back(rated_layer_times(layer, cpu));
    }
    device.cpu_output_seconds = rated_output_times(shape, cpu);
    if (j % 3 != 2) continue;
    profile::GpuProfile& gpu = device.gpus.emplace_back();
    gpu.name = "gpu";
    gpu.vram_available_bytes = 8 * kGiB;
    const BackendRating rating{400e9, 2e13, 50e-6};
    for (const LayerClass& layer : shape.classes) {
      gpu.layers.push_back(rated_layer_times(layer, rating));
    }
    gpu.output_seconds = rated_output_times(shape, rating);
    gpu.copy_to_bytes_per_second = gpu.copy_from_bytes_per_second = 10e9;
    gpu.copy_latency_seconds = 20e-6;
  }
  cluster.links.assign(link_count(n_devices), {0.004, 50e6, 50e6, true});
  return cluster;
}

void plan_for(benchmark::State& state, const char* shape_name, Objective objective) {
  const ModelShape shape = *named_shape(shape_name);
  const Cluster cluster = mixed_cluster(static_cast<std::size_t>(state.range(0)), shape);
  Request request;
  request.objective = objective;
  for (auto _ : state) {
    const auto plan = make_plan(cluster, shape, request);
    if (!plan) {
      state.SkipWithError(plan.error().message().c_str());
      return;
    }
    state.counters["objective_s"] = plan->objective_seconds;
    state.counters["gap_%"] = 100 * (plan->objective_seconds / plan->bound_seconds - 1);
    state.counters["rounds"] = plan->rounds;
    state.counters["devices"] = static_cast<double>(plan->ring.size());
    state.counters["simulated"] = static_cast<double>(plan->n_simulated);
  }
}

BENCHMARK_CAPTURE(plan_for, 80_layers_answer, "llama-70b-q4_k", Objective::answer)
    ->Arg(8)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(plan_for, 80_layers_mixed_answer, "llama-70b-q4_k_m", Objective::answer)
    ->Arg(8)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(plan_for, 80_layers_mixed_tpot, "llama-70b-q4_k_m", Objective::tpot)
    ->Arg(8)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(plan_for, 126_layers_answer, "llama-405b-q4_k", Objective::answer)
    ->Arg(32)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(plan_for, 126_layers_mixed_answer, "llama-405b-q4_k_m", Objective::answer)
    ->Arg(32)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(plan_for, 126_layers_mixed_tpot, "llama-405b-q4_k_m", Objective::tpot)
    ->Arg(32)
    ->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();

// A cluster, a model and a request, checked and worked out: what each device may hold and how long
// each piece of work takes there. The bound, the simulator and the search all read these tables.
//
// Immutable once made, so safe to read from any thread. Holds references: the cluster and the shape
// must outlive it.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "plan/model_shape.h"
#include "plan/plan.h"
#include "plan/prompt_visits.h"

namespace prima::plan {

// Room that is left in a GPU's memory for layers of prompts that live elsewhere, `places` at a time
// (prompt_visits.h).
struct PromptRoom {
  int gpu = -1;
  std::uint32_t places = 0;
  explicit operator bool() const { return places > 0; }
  friend bool operator==(const PromptRoom&, const PromptRoom&) = default;
};

// What a processor's weights are within: the kernels, and where a GPU copies them from, follow.
enum class Weights {
  unbudgeted,
  budgeted,
  either,  // the less of both, which nothing undercuts
};

// Seconds of work for one step of so many tokens. The output layer counts as one more layer class,
// with index ModelShape::classes.size().
struct StepCosts {
  struct Device {
    // The layers that live in memory or on disk.
    struct Processor {
      std::vector<double> seconds;  // by class
      double run_seconds = 0;       // of each run of layers, on top
      bool on_gpu = false;          // they visit a GPU's memory for this step
    };
    std::array<Processor, 3> cpu;  // by Weights
    // The same with room on a GPU: by GPU, by places less one, by Weights. Empty: none helps.
    std::vector<std::array<std::array<Processor, 3>, kMostVisitPlaces>> visits;
    std::vector<std::vector<double>> gpu_seconds;  // by GPU, by class; infinite: can't run there
    std::vector<double> gpu_copy_seconds;          // by GPU: hidden states in and out, once each

    const Processor& processor(Weights weights, PromptRoom room = {}) const {
      const auto& processors = room ? visits[room.gpu][room.places - 1] : cpu;
      return processors[static_cast<std::size_t>(weights)];
    }
  };
  struct Hop {
    double latency_seconds = 0;
    double transmit_seconds[3] = {0, 0, 0};  // by LinkFormat; occupies the medium
    bool shared_medium = false;

    double total_seconds(LinkFormat format) const {
      return latency_seconds + transmit_seconds[static_cast<int>(format)];
    }
  };

  double tokens = 1;
  std::uint32_t steps = 1;  // as many travel at once
  std::vector<Device> devices;
  std::vector<double> expert_ratio;  // by class: expert_read_ratio, 1 for dense and output
  std::vector<Hop> hops;             // [from * n_devices + to]
};

// One row of the pseudo class table: layer classes, then the output layer.
struct ClassBytes {
  Bytes dense = 0;
  Bytes experts = 0;
  Bytes kv = 0;                 // for the request's context
  std::vector<Bytes> stages{};  // LayerClass::stages
  Bytes weights() const { return dense + experts; }
};

struct Problem {
  const Cluster& cluster;
  const ModelShape& shape;
  Request request;
  std::vector<ClassBytes> classes;                   // the output layer last
  std::vector<Bytes> buffers;                        // by device: compute buffers
  std::vector<Bytes> budget;                         // by device: memory for weights, KV and slots
  std::vector<std::vector<Bytes>> vram_budget;       // by device, by GPU
  std::vector<std::vector<PromptRoom>> rooms;        // by device: that are worth leaving
  std::array<Bytes, kMostVisitPlaces> room_bytes{};  // by places less one
  Bytes slot_grid = 0;
  // One piece being read while another is computed; or the largest stage, behind which the next is
  // read as it is released.
  Bytes min_slots = 0;

  StepCosts decode;                // one token
  std::vector<StepCosts> prefill;  // the prompt as 1, 2, 4, 8 steps
  std::vector<StepCosts> batch;    // `sequences` sequences as 1, 2, 4, ... steps

  // The step kinds that the objective depends on; decode is always the first.
  std::vector<const StepCosts*> kinds() const;

  std::size_t n_devices() const { return cluster.devices.size(); }
  std::uint32_t n_layers() const { return static_cast<std::uint32_t>(shape.layers.size()); }
  std::size_t output_class() const { return shape.classes.size(); }
  // A device's that streams some, or that holds so many bytes, KV cache included.
  Weights weights_of(std::size_t device, bool streams, double held_bytes) const {
    const Bytes unbudgeted = cluster.devices[device].unbudgeted_up_to_bytes;
    return streams || held_bytes > static_cast<double>(unbudgeted) ? Weights::budgeted
                                                                   : Weights::unbudgeted;
  }
  Bytes bytes_of(PromptRoom room) const { return room ? room_bytes[room.places - 1] : 0; }
  const StepCosts::Hop& hop(const StepCosts& costs, std::size_t from, std::size_t to) const {
    return costs.hops[from * n_devices() + to];
  }
};

// Fails with invalid_argument, naming the device and the value, on a profile that can't be: no
// devices, times that are missing, negative or fall with more tokens, links without bandwidth.
Status validate(const Cluster& cluster, const ModelShape& shape);
Status validate(const Request& request, const ModelShape& shape);

Result<Problem> make_problem(const Cluster& cluster, const ModelShape& shape,
                             const Request& request);

}  // namespace prima::plan

// The relaxed problem (DESIGN.md sections 1 and 5) solved exactly: which device takes how many
// layers of each class, so that the sum of the devices' turns and hops is least. Dynamic
// programming over devices; the state is how many layers of each class are placed.
//
// Relaxed means: windows need not be consecutive, pieces and slots are divisible, a hop goes to the
// device's nearest neighbour, all GPUs of a device are one with their summed memory and the best
// times, room for prompts is the least of any and serves as the best does. Every plan satisfies
// these, so what is least here bounds every plan from below.
//
// Where the classes make more states than kMaxStates, the two most alike are joined, the joined one
// having the smaller bytes and times of both: the bound stays a bound.
//
// Thread-compatible after construction.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "plan/load.h"
#include "plan/problem.h"

namespace prima::plan {

class Relaxation {
 public:
  enum class Classes {
    exact,     // for bounds
    averaged,  // all layers alike, with mean bytes and times: fast, for candidates; no bound
  };
  Relaxation(const Problem& problem, Classes classes);

  // What is summed, over devices that take part.
  struct Terms {
    double period_seconds = std::numeric_limits<double>::infinity();  // disks keep up with it
    double rounds_ahead = 1;   // rounds in which a disk can read ahead
    double rounds_hops = 1;    // rounds whose hops are counted
    double decode_weight = 1;  // of the devices' turns in a token, and its hops
    std::size_t kind = 0;      // another kind of step, by Problem::kinds() ...
    double kind_weight = 0;    // ... the weight of its compute time and hops
    double kind_cap_seconds =
        std::numeric_limits<double>::infinity();  // ... and each device's most
    // A sum above this may be told infinite, sooner.
    double limit_seconds = std::numeric_limits<double>::infinity();
  };

  // The least sum, infinite if nothing is feasible. `layers`, if given: how many each device takes.
  double least_sum(const Terms& terms, std::vector<std::uint32_t>* layers = nullptr) const;

  // Least seconds per unit of work summed over devices working at once, for kind `kind`: every
  // layer has to be computed somewhere, at best spread so that all finish together.
  double balanced_seconds(std::size_t kind) const;

  static constexpr std::size_t kMaxStates = 4608;

 private:
  struct RelaxedClass {
    double count = 0;
    double dense_bytes = 0;
    double expert_bytes = 0;
    double kv_bytes = 0;
    // [device][kind]; with a GPU: of the faster backend.
    std::vector<std::array<double, kMaxStepKinds>> cpu_seconds;
    std::vector<std::array<double, kMaxStepKinds>> visiting_seconds;  // with room on a GPU
    std::vector<std::array<double, kMaxStepKinds>> gpu_seconds;
    double weight_bytes() const { return dense_bytes + expert_bytes; }
  };
  struct Device {
    Capacity capacity;
    double vram_bytes = 0;  // of all GPUs; 0: none
    bool has_room = false;  // for prompts, on a GPU, would help ...
    double room_bytes = 0;  // ... and takes at least so much
    bool unified = false;
    std::array<double, kMaxStepKinds> least_hop_seconds{};
    std::array<double, kMaxStepKinds> least_copy_seconds{};
    // Non-dominated ways to hold each state's layers: loads[first[state]] ...
    // loads[first[state+1]].
    std::vector<Load> loads;
    std::vector<std::uint32_t> first;
  };

  void make_classes(Classes classes);
  void join_classes();
  void make_device(std::size_t device);
  void add_loads(Device& device, std::size_t index, const std::vector<std::uint32_t>& counts);
  std::vector<float> costs_of(const Device& device, const Terms& terms) const;
  double hop_cost(const Device& device, const Terms& terms) const;
  struct Span {
    std::size_t begin = 0;
    std::size_t end = 0;
  };
  std::vector<Span> spans_of(const std::vector<float>& values, float limit) const;
  std::vector<float> with_device(const std::vector<float>& before, const std::vector<float>& costs,
                                 float hop, float limit) const;
  float with_last_device(const std::vector<float>& before, const std::vector<float>& costs,
                         float hop) const;

  const Problem& problem_;
  std::vector<const StepCosts*> kinds_;
  std::vector<RelaxedClass> classes_;  // without the output layer
  RelaxedClass output_;
  std::vector<std::uint32_t> radix_;  // by class: count + 1
  std::size_t n_states_ = 1;
  std::vector<std::vector<std::uint32_t>> counts_;  // by state
  std::vector<Device> devices_;
};

}  // namespace prima::plan

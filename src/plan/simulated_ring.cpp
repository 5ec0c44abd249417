// From a laid-out plan to what the simulator takes: simulated_ring() of simulator.h.
#include <vector>

#include "plan/simulator.h"

namespace prima::plan {
namespace {

// Items of one device, those resident and next to each other joined.
class ItemList {
 public:
  ItemList(const std::vector<Segment>& segments, std::vector<std::vector<SimulatedItem>>& visits)
      : visits_(visits) {
    std::vector<std::size_t> n_segments(visits.size(), 0);
    for (const Segment& segment : segments) ++n_segments[segment.visit];
    // A run of layers may have an item of its own.
    for (std::size_t i = 0; i < visits.size(); ++i) visits[i].reserve(n_segments[i] + 1);
  }

  void add(std::uint32_t visit, double seconds, Bytes read_bytes) {
    auto& items = visits_[visit];
    if (read_bytes == 0 && !items.empty() && items.back().read_bytes == 0) {
      items.back().compute_seconds += seconds;
    } else {
      items.push_back({seconds, read_bytes});
    }
  }

 private:
  std::vector<std::vector<SimulatedItem>>& visits_;
};

SimulatedDevice simulated_device(const Problem& problem, const Share& share,
                                 const DeviceLayout& layout, std::uint32_t n_visits,
                                 const StepCosts& costs) {
  const std::size_t device = share.device;
  const StepCosts::Device& mine = costs.devices[device];
  SimulatedDevice simulated;
  simulated.visits.resize(n_visits);
  simulated.disk_bytes_per_second = problem.cluster.devices[device].disk_read_bytes_per_second;
  simulated.slot_bytes = layout.slot_bytes;

  const StepCosts::Device::Processor& processor =
      mine.processor(weights_of(problem, device, layout), share.room);

  // A layer's time is spread over its pieces by the bytes that are read from memory. Stages are
  // read whole, whichever experts are used, and so are layers that visit a GPU.
  const auto expert_ratio = [&](std::size_t c) {
    const bool whole = !problem.classes[c].stages.empty() || processor.on_gpu;
    return whole ? 1.0 : costs.expert_ratio[c];
  };
  std::vector<double> seconds_per_byte;
  for (std::size_t c = 0; c < problem.classes.size(); ++c) {
    const ClassBytes& bytes = problem.classes[c];
    const double read =
        static_cast<double>(bytes.dense) + static_cast<double>(bytes.experts) * expert_ratio(c);
    seconds_per_byte.push_back(read > 0 ? processor.seconds[c] / read : 0);
  }

  ItemList items(layout.segments, simulated.visits);
  const Segment* before = nullptr;
  for (const Segment& segment : layout.segments) {
    const std::uint16_t c = segment.layer_class;
    if (segment.gpu >= 0) {
      const bool enters =
          before == nullptr || before->visit != segment.visit || before->gpu != segment.gpu;
      items.add(segment.visit,
                segment.layers * mine.gpu_seconds[segment.gpu][c] +
                    (enters ? mine.gpu_copy_seconds[segment.gpu] : 0),
                0);
    } else {
      const bool enters =
          before == nullptr || before->visit != segment.visit || before->gpu != segment.gpu;
      if (enters && c != problem.output_class() && processor.run_seconds > 0) {
        items.add(segment.visit, processor.run_seconds, 0);
      }
      const double read = segment.dense_bytes + segment.expert_bytes * expert_ratio(c);
      items.add(segment.visit, read * seconds_per_byte[c],
                segment.streamed ? static_cast<Bytes>(read + 0.5) : 0);
    }
    before = &segment;
  }
  return simulated;
}

}  // namespace

SimulatedRing simulated_ring(const Problem& problem, const Decision& decision, const Layout& layout,
                             const StepCosts& costs) {
  SimulatedRing ring;
  ring.rounds = decision.rounds;
  ring.steps = costs.steps;
  const std::size_t n = decision.ring.size();
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t device = decision.ring[i].device;
    ring.devices.push_back(simulated_device(problem, decision.ring[i], layout.devices[i],
                                            decision.rounds + (i == 0 ? 1 : 0), costs));
    if (n == 1) continue;
    ring.devices.back().hop = problem.hop(costs, device, decision.ring[(i + 1) % n].device);
    ring.devices.back().hop_format = decision.hop_formats[i];
  }
  return ring;
}

}  // namespace prima::plan

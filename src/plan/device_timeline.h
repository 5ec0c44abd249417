// One device in the simulation: its disk reading pieces in order of use into its slots, and its
// processor computing them. A piece is read as far as the slots have room: their bytes come free as
// pieces are computed, oldest first, as in weights/slot_ring.h.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/simulator.h"

namespace prima::plan {

class DeviceTimeline {
 public:
  // `prefilled`: the slots are full at time 0. The device must outlive this. REQUIRES: each piece
  // fits the slots.
  DeviceTimeline(const SimulatedDevice& device, std::uint32_t steps, bool prefilled);

  bool streams() const { return !piece_bytes_.empty(); }
  double disk_free() const { return disk_free_; }

  // Runs visit `v` for step `step` from `start`; returns its end.
  double run(std::uint32_t v, std::uint32_t step, double start, DeviceTrace* trace);

 private:
  // Part of a piece that can be read once the piece `reach` before it has been computed.
  struct Part {
    Bytes bytes = 0;
    std::uint32_t reach = 0;
  };

  std::uint32_t pieces_in(std::uint32_t v) const;
  double wait_for(std::uint32_t piece, double now, DeviceTrace* trace);
  void find_parts();
  double seconds_to_fill_slots() const;

  const SimulatedDevice& device_;
  std::uint32_t steps_;
  std::vector<bool> holds_;                 // by visit: read once for all steps of a wave
  std::vector<std::uint32_t> first_piece_;  // by visit
  std::vector<Bytes> piece_bytes_;          // of one cycle, in order of use
  std::vector<Part> parts_;                 // of all pieces, in order
  std::vector<std::uint32_t> first_part_;   // by piece, and one more
  std::vector<double> consumed_;            // when each piece was last computed
  double disk_free_ = 0;
};

// Joins a span to the trace's last one where they touch.
void add_span(DeviceTrace& trace, Activity activity, double start, double end);

}  // namespace prima::plan

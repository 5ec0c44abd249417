// Event-driven simulation of a laid-out plan: each disk prefetching in order of use into its slots,
// each device computing in turn, hops between them, several steps in flight, Wi-Fi as one shared
// medium. Simulated time only: the same input gives the same output, to the bit.
//
// What a device does at a visit (a round's window, or the head's output layer) follows from its own
// state alone: a piece can be read when the disk has read the one before it and the pieces whose
// bytes its slots hold have been computed; it can be computed when it has been read. So a visit is
// a short recurrence (max-plus), and only visits and hops are events.
//
// Several steps in flight, where any device streams, travel in waves: a device serves all steps in
// one round before the next. If a window's streamed pieces fit the slots they are read once for the
// wave, else once for each step. Where nothing is streamed, steps are served in order of arrival.
//
// Thread-compatible: no shared state.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/layout.h"
#include "plan/problem.h"

namespace prima::plan {

// Work of one device as the simulator takes it. Also made by hand, in tests.
struct SimulatedItem {
  double compute_seconds = 0;
  Bytes read_bytes = 0;  // 0: resident
};

struct SimulatedDevice {
  std::vector<std::vector<SimulatedItem>> visits;  // by round; the head has one more, the output
  double disk_bytes_per_second = 0;
  Bytes slot_bytes = 0;
  StepCosts::Hop hop;  // to the next device in the ring
  LinkFormat hop_format = LinkFormat::f32;
};

struct SimulatedRing {
  std::uint32_t rounds = 1;
  std::uint32_t steps = 1;  // in flight
  std::vector<SimulatedDevice> devices;
};

SimulatedRing simulated_ring(const Problem& problem, const Decision& decision, const Layout& layout,
                             const StepCosts& costs);

// Where each device's time goes during one token of the steady state.
struct DeviceTrace {
  TimeShares time;
  std::vector<Span> spans;
};

// Seconds from one output of a sequence to its next, once the disks, slots and devices have
// settled. `traces`, if given, is filled by ring position with the last token simulated. REQUIRES:
// at least two pieces fit each device's slots.
double simulate_period(const SimulatedRing& ring, std::vector<DeviceTrace>* traces = nullptr);

// Seconds from a prompt's start, its steps all ready at the head and the slots filled, to its first
// token.
double simulate_prompt(const SimulatedRing& ring);

// What they are never below, in a small part of the time: visits' work as a whole instead of
// pieces.
double least_period(const SimulatedRing& ring);
double least_prompt(const SimulatedRing& ring);

// The busiest disk's or device's work for one token of every step.
double busiest_seconds(const SimulatedRing& ring);

}  // namespace prima::plan

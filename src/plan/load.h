// The relaxed model of DESIGN.md section 1 for one device: what a share of the layers asks of it,
// and the least time its turns take, whatever the order of pieces and windows.
//
//   s  = what must be read for a token: weights + KV + slots c - budget, where positive
//   s <= T d                      the disk keeps up with the period T
//   turns >= max(C, (s - k c) / d)  between two of its k windows, a device reads ahead at most c;
//                                 with fewer layers than rounds it has fewer windows
//
// No plan that the simulator can run takes less, so these are the terms of the lower bound, and
// they say how many slots are worth having. Experts count by the bytes expected; streamed first,
// since they cost the fewest bytes a token.
//
// Pure functions.
#pragma once

#include <array>
#include <cstdint>

#include "plan/layout.h"
#include "plan/problem.h"

namespace prima::plan {

// Kinds of step whose compute time a load carries: decode, then prefill or batch by index.
inline constexpr std::size_t kMaxStepKinds = 5;

struct Load {
  std::array<double, kMaxStepKinds> compute_seconds{};  // for all its layers, by kind
  double cpu_dense_bytes = 0;
  double cpu_expert_bytes = 0;
  double fixed_bytes = 0;  // KV cache, and layers on GPUs of unified memory
  double vram_excess_bytes = 0;
  double cpu_layers = 0;  // the output layer counted: no more windows than these can stream

  double weight_bytes() const { return cpu_dense_bytes + cpu_expert_bytes; }
};

// A device, as the relaxed model sees it.
struct Capacity {
  double budget_bytes = 0;
  double disk_bytes_per_second = 0;
  double min_slot_bytes = 0;
  double expert_ratio = 1;  // the least of any class, for one token
};
Capacity capacity_of(const Problem& problem, std::size_t device);

// Of a decision's share at ring position `position`, with those windows.
Load load_of(const Problem& problem, const Decision& decision, std::size_t position,
             const std::vector<Window>& windows);

// What must be read for a token with slots of `slot_bytes`; 0 where all fits.
double read_bytes(const Load& load, const Capacity& capacity, double slot_bytes);

// What must be read while a prompt is computed, whatever the slots held before it began.
double prompt_read_bytes(const Load& load, const Capacity& capacity);

// By how many bytes the load is above what the device can hold at all; 0: it fits.
double excess_bytes(const Load& load, const Capacity& capacity);

// The most slots that leave the disk able to keep up with `period_seconds`; below 0: none do.
double most_slots(const Load& load, const Capacity& capacity, double period_seconds);

// Least seconds of a device's turns in one token, for any slots; infinite where the disk can't keep
// up with the period or the load does not fit.
double turn_seconds(const Load& load, const Capacity& capacity, double rounds,
                    double period_seconds);

// The same with slots of `slot_bytes`, of a token whose period nothing else bounds.
double turn_seconds_with(const Load& load, const Capacity& capacity, double rounds,
                         double slot_bytes);

// The fewest slots with which turns are no longer than turn_seconds says; 0 where nothing is
// streamed.
double wanted_slots(const Load& load, const Capacity& capacity, double rounds,
                    double period_seconds);

}  // namespace prima::plan

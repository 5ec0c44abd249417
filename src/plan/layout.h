// From a decision (who takes how many layers, in how many rounds, with which slots) to the work
// each device does, in order: which layers each window has, which pieces are resident, streamed or
// on a GPU, and what that takes of its memory.
//
// Rules, the same for every plan:
//  1. Windows are consecutive; a device's layers are dealt over the rounds as evenly as possible,
//     and its GPU layers evenly over its windows. A window runs its GPU layers first.
//  2. Where weights, KV cache and slots exceed the budget, just enough pieces are streamed,
//  experts'
//     before others' (fewest bytes per token), spread evenly over the cycle. A cache smaller than a
//     cyclic scan is best used by a fixed set (DESIGN.md section 1).
//  3. Layers on a GPU are never streamed.
//  4. Where the model's stages are known, the device itself decides which are streamed, and the
//  plan
//     asks the same function (weights/stream_schedule.h).
//
// Value types; thread-compatible.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "plan/problem.h"

namespace prima::plan {

struct Share {
  std::uint32_t device = 0;
  std::uint32_t n_layers = 0;
  std::vector<std::uint32_t> gpu_layers;  // by GPU; sums to n_layers at most
  int output_gpu = -1;                    // the head only
  PromptRoom room{};                      // beside them
  Bytes slot_bytes = 0;                   // taken only where something is streamed
  friend bool operator==(const Share&, const Share&) = default;
};

struct Decision {
  std::uint32_t rounds = 1;
  std::vector<Share> ring;              // the head first
  std::vector<LinkFormat> hop_formats;  // [i]: from ring[i] to the next
  friend bool operator==(const Decision&, const Decision&) = default;
};

// A run of work without a break in kind, in order of use.
struct Segment {
  std::uint32_t visit = 0;        // the round, or Decision::rounds for the output layer
  std::uint16_t layer_class = 0;  // of the problem's table
  std::int16_t gpu = -1;          // -1: CPU
  bool streamed = false;
  bool expert = false;     // streamed only: a piece of experts
  double layers = 0;       // on a GPU: how many
  double dense_bytes = 0;  // on the CPU
  double expert_bytes = 0;
};

struct DeviceLayout {
  std::vector<Window> windows;
  std::vector<Segment> segments;
  Bytes resident_bytes = 0;
  Bytes kv_bytes = 0;
  Bytes slot_bytes = 0;
  Bytes streamed_bytes = 0;
  std::vector<Bytes> vram_bytes;
  Bytes used_bytes() const { return resident_bytes + kv_bytes + slot_bytes; }
};

struct Layout {
  std::vector<DeviceLayout> devices;  // in ring order
};

// Within a memory budget, or so little that it is held as without one.
Weights weights_of(const Problem& problem, std::size_t device, const DeviceLayout& layout);

// nullopt where a budget does not allow the decision.
// REQUIRES: the shares' layers sum to the model's.
std::optional<Layout> lay_out(const Problem& problem, const Decision& decision);

// Rule 1: layers of `n` that round `r` of `rounds` gets.
constexpr std::uint32_t dealt(std::uint32_t n, std::uint32_t r, std::uint32_t rounds) {
  const auto upto = [=](std::uint32_t i) { return (n * i + rounds - 1) / rounds; };
  return upto(r + 1) - upto(r);
}

// The windows of every device, in ring order.
std::vector<std::vector<Window>> windows_of(const Problem& problem, const Decision& decision);

// Those of one device.
std::vector<Window> windows_at(const Problem& problem, const Decision& decision,
                               std::size_t position);

// Rule 1 again, within one device's windows.
void deal_gpu_layers(const Share& share, std::vector<Window>& windows);

}  // namespace prima::plan

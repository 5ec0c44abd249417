// What the planner is asked, and what it answers.
//
// Value types; thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/units.h"
#include "profile/device_profile.h"

namespace prima::plan {

// The devices that may be used. Links are symmetric in place, not in speed: see link().
struct Cluster {
  std::string name;
  std::vector<profile::DeviceProfile> devices;
  std::size_t head = 0;                     // index into devices
  std::vector<profile::LinkProfile> links;  // of a < b at [link_index(a, b)]
};

constexpr std::size_t link_index(std::size_t n_devices, std::size_t a, std::size_t b) {
  const std::size_t low = a < b ? a : b;
  const std::size_t high = a < b ? b : a;
  return low * n_devices - low * (low + 1) / 2 + (high - low - 1);
}
constexpr std::size_t link_count(std::size_t n_devices) { return n_devices * (n_devices - 1) / 2; }

enum class Objective {
  answer,      // TTFT of a prompt plus the time of an answer: what a person waits for
  tpot,        // time per output token of one sequence
  ttft,        // time to first token of a prompt
  throughput,  // tokens per second of `sequences` sequences
};
const char* to_string(Objective objective);

// Of hidden states on a link.
enum class LinkFormat { f32, f16, q8_0 };
const char* to_string(LinkFormat format);
double bytes_per_element(LinkFormat format);

struct Request {
  Objective objective = Objective::answer;
  std::uint32_t n_ctx = 4096;  // KV cells to make room for, all sequences together
  std::uint32_t prompt_tokens = 512;
  std::uint32_t answer_tokens = 256;
  std::uint32_t sequences = 8;  // in flight, for throughput
  // Of the largest steps, which compute buffers have to hold.
  std::uint32_t step_tokens = profile::kProfiledStepTokens;
  // Formats that hops may use. Only f32 leaves the output independent of the plan.
  std::vector<LinkFormat> link_formats{LinkFormat::f32};
  Bytes slot_grid_bytes = 0;     // slots are multiples of it; 0: of the model's piece_bytes
  std::uint32_t max_rounds = 0;  // 0: as many as layers
};

// Consecutive layers that a device runs in one round, those on GPUs first, GPU by GPU.
struct Window {
  std::uint32_t first_layer = 0;
  std::uint32_t n_layers = 0;
  std::vector<std::uint32_t> gpu_layers;  // per GPU; the rest run on the CPU
  friend bool operator==(const Window&, const Window&) = default;
};

// Where a device's time goes between two tokens; sums to the period.
struct TimeShares {
  double compute_seconds = 0;
  double disk_wait_seconds = 0;  // its turn, but weights are still being read
  double network_seconds = 0;    // its hidden state is on the way to the next device
  double idle_seconds = 0;       // others' turn
};

enum class Activity { compute, disk_wait, disk_read, network };
struct Span {
  Activity activity = Activity::compute;
  double start_seconds = 0;  // from the start of the token
  double end_seconds = 0;
};

// Room left in a GPU's memory, so that prompts compute the layers that live elsewhere there too
// (prompt_visits.h).
struct PromptPlan {
  int gpu = -1;                   // -1: none
  std::uint32_t places = 0;       // for so many layers at a time
  Bytes room_bytes = 0;           // they, their KV cache and compute buffers
  std::uint32_t from_tokens = 0;  // of a step; the device measures it again
  double step_tokens = 0;         // of the steps that the prompt travels in
  double gpu_layer_seconds = 0;   // of a layer for such a step: copied over, of the most common ...
  double processor_layer_seconds = 0;  // ... class, and where it lives
};

struct DevicePlan {
  std::size_t device = 0;  // index into Cluster::devices
  std::string name;
  std::vector<Window> windows;  // one for each round; n_layers may be 0
  bool runs_output = false;     // the head
  int output_gpu = -1;          // -1: the output layer runs on the CPU

  // Memory, in bytes that the budget counts. Resident includes layers on GPUs of unified memory.
  Bytes budget_bytes = 0;  // available, less reserve and buffers
  Bytes compute_buffer_bytes = 0;
  Bytes resident_bytes = 0;
  Bytes kv_bytes = 0;
  Bytes slot_bytes = 0;
  Bytes streamed_bytes = 0;         // weights that stay on disk
  double read_bytes_per_token = 0;  // of them, expected per token
  std::vector<Bytes> vram_bytes;    // per GPU: weights and KV cache
  std::vector<Bytes> vram_budget_bytes;
  std::vector<std::string> gpu_names;
  PromptPlan prompts;

  LinkFormat link_format = LinkFormat::f32;  // to the next device
  TimeShares time;
  std::vector<Span> spans;  // of one token in the steady state, in order
};

struct LeftOut {
  std::size_t device = 0;
  std::string name;
  std::string reason;
};

struct Plan {
  std::string model;
  Request request;
  std::uint32_t n_layer = 0;
  std::uint32_t rounds = 1;
  std::vector<DevicePlan> ring;  // in ring order, the head first
  std::vector<LeftOut>
      left_out;  // filled by left_out_of (explain.h), which takes as long as planning
  std::uint32_t prefill_steps = 1;  // a prompt travels as so many steps of equal size
  std::uint32_t decode_steps = 1;   // `sequences` sequences travel as so many steps

  // Predicted by the simulator.
  double tpot_seconds = 0;
  double ttft_seconds = 0;
  double tokens_per_second = 0;  // of `sequences` sequences
  double objective_seconds = 0;  // what was minimized; for throughput, seconds per token

  double bound_seconds = 0;  // no plan's objective is below this
  std::uint64_t n_simulated = 0;
  std::string bottleneck;  // a sentence
};

}  // namespace prima::plan

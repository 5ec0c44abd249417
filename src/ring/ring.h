// The head's view of the ring: steps in, results out. Whoever drives it (src/generate) does not
// know whether the layers run on this device alone (LocalRing) or on several (RemoteRing).
//
//     form_ring -> Ring;  submit(step) ... submit(step);  next() -> Finished;  reset();  ~Ring
//
// A ring fails as a whole: once a device is lost, every call returns `unavailable` naming the
// device, and the other devices are back to waiting for a head. Destroy the ring and form another.
//
// Thread-compatible: one call at a time, from one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/idle_work.h"
#include "base/result.h"
#include "base/units.h"
#include "compute/executor.h"
#include "compute/step.h"
#include "model/model_file.h"
#include "ring/planning.h"

namespace prima::ring {

// One run of layers on one device, as a step passed through it.
struct HopTiming {
  std::uint32_t device = 0;  // index into RingDescription::devices
  compute::LayerRange layers;
  Duration waiting{};  // from arrival on the device until its turn came
  Duration reading{};  // waits for weights from disk
  Duration computing{};
  Duration sending{};  // packing for the link; the way itself is in StepTimings::travelling()
};

// Durations, measured where they happened: the devices' clocks need not agree.
struct StepTimings {
  Duration total{};             // from submit to the result
  std::vector<HopTiming> hops;  // in the order in which they ran; of a step in parts, part by part
  Duration output{};            // the output layer
  std::uint32_t n_parts = 1;    // that travelled apart

  // What the hops do not explain: encryption and the links. Zero where a step's parts overlapped.
  Duration travelling() const;
};

struct DeviceDescription {
  std::string name;
  std::string address;  // as the head reaches it; empty for the head
  std::string state;    // "serving", "loading", ...
  std::vector<compute::LayerRange> windows;
  compute::ExecutorMemory memory;
};

struct RingDescription {
  std::vector<DeviceDescription> devices;  // in ring order, the head first
  std::uint32_t rounds = 1;
  std::uint32_t max_steps_in_flight = 1;
  std::uint32_t max_tokens = 0;  // of a step
};

class Ring {
 public:
  virtual ~Ring() = default;

  // Takes a step, which sets out round the ring at the next call; its tokens stay on this device. A
  // step of many tokens travels in parts, so that all devices have work. Where as much is in the
  // ring as its devices have memory for, works on that until there is room or `deadline` has come
  // (deadline_exceeded: the step was not taken). KV operations of a step on a sequence that has
  // steps in flight act on those too: the caller waits for them first where that matters.
  virtual Status submit(const compute::Step& step, std::span<const std::int32_t> tokens,
                        Instant deadline) = 0;

  struct Finished {
    std::uint64_t step_id = 0;
    std::vector<float>
        logits;  // (n_vocab, n_outputs); of a step for embeddings (n_embd, n_outputs)
    StepTimings timings;
  };

  // The next finished step: any order between sequences, in order within one. After
  // deadline_exceeded nothing is lost; call again. Fails with invalid_argument if none is in
  // flight.
  virtual Result<Finished> next(Instant deadline) = 0;

  // Steps submitted whose results next() has not returned yet.
  virtual std::size_t in_flight() const = 0;

  // What submit() and next() do while this device waits for others or for its disk; null: nothing.
  // It must outlive the ring, or be taken away.
  virtual void set_idle_work(IdleWork* /*work*/) {}

  // Drops all steps in flight and forgets all sequences on every device (after a cancelled answer,
  // between requests).
  virtual Status reset(Instant deadline) = 0;

  virtual RingDescription describe() const = 0;

  // Between requests: why a ring formed now would be clearly better, as devices have joined since
  // or have learned that they are slower or faster than was planned; nullopt: it would not. Then
  // destroy this one and form another. Never waits for a device to measure itself; it is asked
  // again at the next call.
  virtual std::optional<std::string> reason_to_form_anew() { return std::nullopt; }
};

// What form_ring is doing, for a person to see.
struct FormationProgress {
  enum class Stage {
    waiting_for_workers,
    profiling,
    measuring_links,
    loading,
    linking
  } stage = Stage::waiting_for_workers;
  std::uint32_t workers_joined = 0;
  std::uint32_t workers_wanted = 0;
  Bytes loaded = 0;  // on all devices
  Bytes to_load = 0;
  std::vector<DeviceDescription> devices;  // those that joined so far
};

struct RingOptions {
  // 0: this device alone; or, with a planner, whoever is there.
  std::uint32_t n_workers = 0;
  // Decides who runs what; the model outlives it. Without it: `windows` and `rounds`.
  std::function<RingPlanning(const model::ModelFile&)> make_planning{};
  std::vector<std::uint32_t> windows;  // layers per device and round, head first; empty: even split
  std::uint32_t rounds = 1;
  std::uint32_t private_layers = 0;       // the first and last N layers run on the head
  ggml_type link_type = GGML_TYPE_F32;    // of hidden states on links: F32, F16 or Q8_0
  std::uint32_t max_steps_in_flight = 0;  // 0: two per device
  std::uint32_t micro_batch = 0;          // tokens that travel at once; 0: what suits the ring
  compute::ExecutorOptions executor;      // `windows` and `is_head` are filled in by the ring
  // Asked for once the plan is made, when this device loads: ExecutorOptions::on_computed.
  std::function<std::function<void(const compute::ComputedLayers&)>()> make_observer{};
  std::string device_name;         // empty: the host's name
  std::filesystem::path key_file;  // empty: the user's own
  std::uint16_t port = 0;          // workers join here; 0: any free one
  // With a planner and no n_workers: as long after the last one joined, no more are waited for. 0:
  // none are.
  Duration gather_time = std::chrono::milliseconds(700);
  Duration join_timeout = std::chrono::seconds(60);  // for all workers to appear
  Duration load_timeout = std::chrono::minutes(30);  // for all to have their layers in memory
  // Called now and then while the ring forms; returning false cancels.
  std::function<bool(const FormationProgress&)> progress;
};

// This device's name on its network.
std::string host_name();

// Waits for the workers, gives each its layers, loads this device's own. The model must outlive the
// ring. Fails with deadline_exceeded (too few workers), invalid_argument (windows that do not cover
// the model), unavailable, cancelled, or what a device reported.
Result<std::unique_ptr<Ring>> form_ring(const model::ModelFile& model, const RingOptions& options);

}  // namespace prima::ring

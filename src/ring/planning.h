// What the ring tells a planner of the devices that have joined, and what it is told to do.
//
// The ring asks every device for its profile and measures the links, hands both to RingPlanner, and
// runs exactly what comes back; it knows nothing of how plans are made (src/plan).
//
// Value types; thread-compatible.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "compute/executor.h"
#include "profile/device_profile.h"
#include "ring/route.h"

namespace prima::ring {

inline constexpr Bytes kAllInMemory = ~Bytes{0};

// What a plan says of one device's memory. Absent: as that device's own flags say.
struct DeviceShare {
  // For weights, KV cache and buffers: what is beyond is streamed. kAllInMemory: what is beyond the
  // device's own budget.
  std::optional<Bytes> memory;
  std::optional<Bytes> slot_bytes;  // that streamed weights pass through
  std::vector<compute::GpuPlacement> gpus;
  // Left free for layers of prompts that live elsewhere; absent, where `memory` is not: none is.
  std::optional<compute::GpuRoom> prompt_room{};
};

// What the share says overrides what the options say.
void apply(const DeviceShare& share, compute::ExecutorOptions& executor);

struct OfferedDevice {
  std::string name;
  std::string address;  // as the head reaches it; empty for the head
  std::string profile;  // profile/device_profile_json.h; empty: it could not say
  std::string problem;  // why not
};

struct RingOffer {
  std::vector<OfferedDevice> devices;  // the head first
  std::vector<std::optional<profile::LinkProfile>>
      links;  // of a < b, in order (0,1) (0,2) ... (1,2)
};

struct RingPlan {
  std::vector<std::uint32_t> devices;  // by place in the ring: index into RingOffer::devices
  std::vector<DeviceShare> shares;     // by place in the ring
  Route route;                         // of places in the ring
  std::uint32_t rounds = 1;
  std::uint32_t max_tokens = 0;  // of a step; 0: as the head's options say
  ggml_type link_type = GGML_TYPE_F32;
};

struct RingPlanning {
  // This device's profile. Empty function: the plan needs none, of no device.
  std::function<Result<std::string>()> profile;
  // The same as generation has shown it by now; it is never measured. Empty function: not asked
  // for.
  std::function<Result<std::string>()> learned_profile{};
  // The link between two devices as it was measured before; nullopt: it is to be measured.
  std::function<std::optional<profile::LinkProfile>(const OfferedDevice&, const OfferedDevice&)>
      known_link;
  std::function<Result<RingPlan>(const RingOffer&)> plan;
  // Why the plan for another offer is worth forming the ring anew; nullopt: it is not.
  std::function<std::optional<std::string>(const RingOffer&)> better;
  // What this device does where no other has joined, which needs no profile.
  std::function<Result<DeviceShare>()> alone;
};

}  // namespace prima::ring

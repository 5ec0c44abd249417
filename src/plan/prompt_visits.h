// Prompts on a GPU, as the planner knows them: steps of many tokens compute the processor's layers
// on a GPU too, whose memory they visit one after another (compute/prompt_offload.h). How much of
// that memory has to be left free, and how long a layer takes.
//
// A layer's weights and KV cells are copied in, it is computed, its new keys and values are copied
// out. With two places the next layer is copied while one is computed; a run of layers pays the
// first copy and the last computing on top, and its hidden state's way in and out. Weights in the
// processor's own layout, which it has without a budget, can't be copied: they are read from the
// model's file first. The device decides by measuring from how many tokens it does so; here that
// number follows from the profile by the same function.
//
// A window of no more layers than places would find them still there at its next step; that it is
// not copied again then is not counted.
//
// Pure functions.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "plan/model_shape.h"
#include "plan/plan.h"
#include "profile/device_profile.h"

namespace prima::plan {

// By how many layers a GPU's memory may have room for at a time, less one.
inline constexpr std::size_t kMostVisitPlaces = 2;

// From how many tokens on; none, where never.
inline constexpr std::uint32_t kNeverVisits = std::numeric_limits<std::uint32_t>::max();

// What `places` layers at a time take of a GPU's memory: they, their KV cache, compute buffers.
Bytes visit_room_bytes(const ModelShape& shape, const Request& request, std::uint32_t places);

// Compute buffers of a GPU for the request's steps; 0 where the shape does not say.
Bytes gpu_buffer_bytes(const ModelShape& shape, const Request& request);

// The processor whose layers visit, and the GPU that they visit.
struct Visit {
  const profile::DeviceProfile& device;
  const profile::GpuProfile& gpu;
  bool budgeted = false;  // whether the processor's weights are within a memory budget
};

// Seconds of one layer of class `c` for a step of `tokens` tokens after `context_tokens`.
struct VisitSeconds {
  double in = 0;  // copies
  double computing = 0;
  double out = 0;
  double hidden = 0;  // the hidden state's copies, once for a run of layers

  double of_layer(std::uint32_t places) const {
    return (places > 1 ? (in > computing ? in : computing) : in + computing) + out;
  }
  // Of a run of layers, beyond its layers'.
  double of_run(std::uint32_t places) const {
    return hidden + (places > 1 ? (in < computing ? in : computing) : 0);
  }
};
VisitSeconds visit_seconds(const Visit& visit, const ModelShape& shape, std::size_t c,
                           double tokens, double context_tokens);

// From how many tokens of a step the device's processor leaves its layers to the GPU: where it was
// told to, or where the most common class of layers is faster there, alone and with one place.
std::uint32_t visits_from_tokens(const Visit& visit, const ModelShape& shape,
                                 const Request& request);

// The most common class of layers.
std::size_t typical_class(const ModelShape& shape);

}  // namespace prima::plan

// Layer times worked out from what a backend is rated at, for clusters that are described instead
// of measured: "what if" and the paper's devices. Where a device can be profiled, it is.
//
//   seconds(n tokens) = overhead + max(bytes read / bandwidth, operations / speed)
//                     + the KV cache read at that bandwidth
//
// Two operations (multiply, add) for each active weight and token; experts by the bytes expected.
//
// Pure functions.
#pragma once

#include "plan/model_shape.h"
#include "profile/device_profile.h"

namespace prima::plan {

struct BackendRating {
  double weights_bytes_per_second = 0;  // what decoding really streams from memory
  double operations_per_second = 0;     // what prefill really reaches
  double layer_overhead_seconds = 0;    // starting a layer: kernel launches, threads waking
};

profile::LayerTimes rated_layer_times(const LayerClass& layer, const BackendRating& rating);
profile::TokenTimes rated_output_times(const ModelShape& shape, const BackendRating& rating);

}  // namespace prima::plan

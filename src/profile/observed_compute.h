// How long layers take in generation, against what this device's profile says: a profile is taken
// once, perhaps while another program was busy, and must not be believed for ever.
//
// Thread-compatible.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "compute/executor.h"
#include "profile/device_profile.h"
#include "profile/measure_layers.h"

namespace prima::profile {

class ObservedCompute {
 public:
  // `classes`: the model's layers by class, as the profile has them.
  ObservedCompute(DeviceProfile profile, const std::vector<LayerClass>& classes);

  void add(const compute::ComputedLayers& computed);

  // The profile, half way from what it says to what was seen, for kernels and kinds of steps
  // (decoding, prompts) of which enough was seen, and which took a tenth more or less than it says.
  // nullopt: nothing to correct.
  std::optional<DeviceProfile> corrected() const;

 private:
  // Seen time over the profile's, of the last so many.
  struct Ratios {
    std::vector<double> values;
    std::size_t next = 0;
  };
  enum Kind : std::uint8_t { decoding, prompt, n_kinds };

  std::optional<double> correction(const Ratios& ratios, std::size_t enough) const;

  DeviceProfile profile_;
  std::vector<std::uint32_t> class_of_layer_;
  std::array<std::array<Ratios, n_kinds>, 2> ratios_;  // [in a budget][kind]
};

}  // namespace prima::profile

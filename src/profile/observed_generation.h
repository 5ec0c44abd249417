// How long layers take in generation and how fast their weights come from disk, against what this
// device's profile says: a profile is taken once, perhaps while another program was busy, and must
// not be believed for ever.
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
#include "profile/observed_disk.h"
#include "profile/observed_ratios.h"

namespace prima::profile {

class ObservedGeneration {
 public:
  // `classes`: the model's layers by class, as the profile has them.
  ObservedGeneration(DeviceProfile profile, const std::vector<LayerClass>& classes);

  void add(const compute::ComputedLayers& computed);

  // The profile, half way from what it says to what was seen, for kernels and kinds of steps
  // (decoding, prompts) of which enough was seen, and which took a tenth more or less than it says;
  // and for the disk (observed_disk.h).
  // nullopt: nothing to correct.
  std::optional<DeviceProfile> corrected() const;

 private:
  enum Kind : std::uint8_t { decoding, prompt, n_kinds };

  DeviceProfile profile_;
  std::vector<std::uint32_t> class_of_layer_;
  // Seen time over the profile's: [in a budget][kind].
  std::array<std::array<ObservedRatios, n_kinds>, 2> ratios_;
  ObservedDisk disk_;
};

}  // namespace prima::profile

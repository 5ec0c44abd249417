// How far logits are from those that a test expects.
#pragma once

#include <cassert>
#include <cmath>
#include <cstddef>
#include <span>

namespace prima::compute {

// The root mean square of the differences over that of what is expected. Both have the same size.
inline double relative_rms(std::span<const float> actual, std::span<const float> expected) {
  assert(actual.size() == expected.size());
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double delta = double{actual[i]} - double{expected[i]};
    difference += delta * delta;
    norm += double{expected[i]} * double{expected[i]};
  }
  return std::sqrt(difference / norm);
}

}  // namespace prima::compute

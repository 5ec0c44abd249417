// What was seen over what a profile says, and what to make of many such figures: single ones are
// disturbed by whatever else a computer does.
//
// Thread-compatible.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

namespace prima::profile {

class ObservedRatios {
 public:
  void add(double ratio);

  // The median of the last so many; nullopt: fewer than `enough` were seen.
  std::optional<double> median(std::size_t enough) const;

 private:
  std::vector<double> values_;
  std::size_t next_ = 0;
};

// By what to multiply a profile's figure, so that it goes half way to `ratio` times itself; nullopt
// where that is within what measurements waver by. Never far at once: beyond, something else is
// wrong.
std::optional<double> correction_by(std::optional<double> ratio);

}  // namespace prima::profile

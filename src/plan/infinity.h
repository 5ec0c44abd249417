#pragma once

#include <limits>

namespace prima::plan {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace prima::plan

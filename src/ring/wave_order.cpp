#include "ring/wave_order.h"

#include <algorithm>
#include <utility>

namespace prima::ring {

bool WaveOrder::may_enter(std::uint32_t round) const {
  if (round == 0) return !closed_;
  return std::ranges::all_of(inside_, [&](const auto& step) { return step.second + 1 >= round; });
}

bool WaveOrder::has_behind(std::uint32_t round) const {
  if (round == 0) return size_ < last_size_;
  return std::ranges::any_of(inside_, [&](const auto& step) { return step.second < round; });
}

void WaveOrder::entered(std::uint64_t step, std::uint32_t round) {
  if (round == 0) {
    if (inside_.empty()) last_size_ = std::exchange(size_, 0);
    ++size_;
  }
  if (round < last_round_) {
    inside_[step] = round;
  } else {
    inside_.erase(step);
  }
  if (inside_.empty()) {
    closed_ = false;
  } else if (round > 0) {
    closed_ = true;
  }
}

void WaveOrder::clear() {
  inside_.clear();
  closed_ = false;
  size_ = 0;
  last_size_ = 0;
}

}  // namespace prima::ring

#include "generate/guess_ahead.h"

#include <algorithm>
#include <cmath>

#include "base/log.h"

namespace prima::generate {

namespace {

// Below one in twenty, guessing would mostly heat the room.
constexpr double kLeastChance = 0.05;

// The weight of a new wait: disks and links change slowly, single waits vary.
constexpr double kNewest = 0.2;

}  // namespace

void WaitLength::observe(Duration length) {
  const double value = seconds(length);
  ++times_;
  if (times_ == 1) mean_ = value;
  const double weight = std::max(kNewest, 1.0 / times_);
  deviation_ += weight * (std::abs(value - mean_) - deviation_);
  mean_ += weight * (value - mean_);
}

Duration WaitLength::surely() const {
  if (times_ < 2) return {};
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(std::max(0.0, mean_ - deviation_)));
}

void GuessAhead::bet(std::int32_t sequence, std::uint32_t n_drafted, double acceptance,
                     std::uint32_t most) {
  // All of the draft, and the first token guessed beyond it.
  const bool good = n_drafted > 0 && std::pow(acceptance, n_drafted + 1) >= kLeastChance;
  if (good && most > 0) left_[sequence] = most;
}

bool GuessAhead::work(Place place, Duration waited) {
  Wait& wait = waits_[place];
  const Duration slice = drafter_.cost_of_a_token() * static_cast<Duration::rep>(left_.size());
  wait.in_slice = !left_.empty() && waited + slice <= wait.length.surely();
  if (!wait.in_slice) return false;
  wait.slice_began = waited;
  std::vector<std::int32_t> sequences;
  for (const auto& [sequence, n] : left_) sequences.push_back(sequence);
  if (const Status guessed = drafter_.guess_further(sequences); !guessed) {
    log::debug("Guessing ahead ended: {}", guessed.error().message());
    left_.clear();
    return true;
  }
  guessed_ += sequences.size();
  for (const std::int32_t sequence : sequences) {
    if (--left_[sequence] == 0) left_.erase(sequence);
  }
  return true;
}

void GuessAhead::ended(Place place, Duration waited) {
  Wait& wait = waits_[place];
  // Within a slice nobody saw when: at its beginning, to be cautious.
  wait.length.observe(wait.in_slice ? wait.slice_began : waited);
  wait.in_slice = false;
}

}  // namespace prima::generate

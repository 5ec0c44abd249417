#include "profile/typical_times.h"

#include <algorithm>
#include <optional>

namespace prima::profile {
namespace {

// A time is the median of so many at most.
constexpr std::size_t kMostRepetitions = 32;

// What is short is repeated so often at least, whatever the budget says: of five, two may be
// disturbed.
constexpr std::size_t kFewRepetitions = 5;
constexpr Duration kShort = std::chrono::milliseconds(50);
constexpr Duration kShortAtFirst = 5 * kShort;

// Kernels of the types that a mixture joins differ by less per byte; a machine whose threads wait
// for one that was taken away, by more.
constexpr double kSuspicious = 1.6;

// Of the repetitions that say most.
double median(const std::vector<Repetition>& repetitions) {
  std::vector<double> times;
  for (const bool disturbed : {false, true}) {
    for (std::size_t i = repetitions.size() > 1 ? 1 : 0; i < repetitions.size(); ++i) {
      if (repetitions[i].disturbed == disturbed) times.push_back(repetitions[i].seconds);
    }
    if (!times.empty()) break;
  }
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>((times.size() - 1) / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

}  // namespace

Repetition repetition_of(Duration elapsed, std::uint32_t n, const compute::WeightReads& before,
                         const compute::WeightReads& after) {
  return {.seconds = seconds(elapsed - (after.waited - before.waited)) / n,
          .disturbed = after.others != before.others};
}

Result<std::vector<double>> typical_times(
    std::size_t n, Duration budget, const Clock& clock,
    const std::function<Result<Repetition>(std::size_t)>& run) {
  struct Kind {
    std::vector<Repetition> repetitions;
    Duration spent{};
    Duration last{};
    Duration least = Duration::max();
    bool is_done = false;
  };
  std::vector<Kind> kinds(n);
  const auto repeat = [&](std::size_t i) -> Status {
    const Instant begun = clock.now();
    PRIMA_ASSIGN_OR_RETURN(const Repetition repetition, run(i));
    kinds[i].last = clock.now() - begun;
    kinds[i].spent += kinds[i].last;
    kinds[i].least = std::min(kinds[i].least, kinds[i].last);
    kinds[i].repetitions.push_back(repetition);
    return {};
  };
  // Whatever comes first pays for pages that nobody used yet, too.
  PRIMA_RETURN_IF_ERROR(run(0));
  for (std::size_t i = 0; i < n; ++i) PRIMA_RETURN_IF_ERROR(repeat(i));
  const Instant end = clock.now() + budget;
  while (true) {
    std::optional<std::size_t> next;
    for (std::size_t i = 0; i < n; ++i) {
      if (!kinds[i].is_done && (!next || kinds[i].spent < kinds[*next].spent)) next = i;
    }
    if (!next) break;
    Kind& kind = kinds[*next];
    // The first does not count, and says little: it may have been disturbed itself.
    const bool is_first = kind.repetitions.size() == 1;
    const bool is_short = kind.repetitions.size() <= kFewRepetitions &&
                          kind.least < (is_first ? kShortAtFirst : kShort);
    const bool is_over = !is_short && clock.now() + kind.last > end;
    if (is_over || kind.repetitions.size() > kMostRepetitions) {
      kind.is_done = true;
      continue;
    }
    PRIMA_RETURN_IF_ERROR(repeat(*next));
  }
  std::vector<double> medians;
  for (const Kind& kind : kinds) medians.push_back(median(kind.repetitions));
  return medians;
}

void make_consistent(TokenTimes& times) {
  auto& seconds = times.seconds;
  for (std::size_t i = seconds.size() - 1; i > 0; --i) {
    seconds[i - 1] = std::min(seconds[i - 1], seconds[i]);
  }
  for (std::size_t i = 1; i < seconds.size(); ++i) {
    const std::uint32_t steps = kTimedTokens[i] / kTimedTokens[i - 1];
    seconds[i] = std::min(seconds[i], steps * seconds[i - 1]);
  }
}

TokenTimes least_of(TokenTimes one, const TokenTimes& other) {
  for (std::size_t i = 0; i < one.seconds.size(); ++i) {
    one.seconds[i] = std::min(one.seconds[i], other.seconds[i]);
  }
  return one;
}

std::vector<std::size_t> suspicious(const std::vector<double>& seconds_per_byte) {
  std::vector<std::size_t> found;
  if (seconds_per_byte.empty()) return found;
  const double least = *std::min_element(seconds_per_byte.begin(), seconds_per_byte.end());
  for (std::size_t i = 0; i < seconds_per_byte.size(); ++i) {
    if (seconds_per_byte[i] > kSuspicious * least) found.push_back(i);
  }
  return found;
}

}  // namespace prima::profile

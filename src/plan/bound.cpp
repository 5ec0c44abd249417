#include "plan/bound.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "plan/infinity.h"
#include "plan/relaxation.h"

namespace prima::plan {
namespace {

// The bound is found to this share of itself, and of the gap to it where that is large.
constexpr double kBoundTolerance = 2e-3;
constexpr double kGapTolerance = 0.05;

// Rounds are taken in ranges [fewest, most]: hops of the fewest and reading ahead of the most
// rounds bound every number between. Whether a period is feasible is monotone, so one bisection
// over all ranges finds the bound, and a range once infeasible stays out.
struct RoundRange {
  std::uint32_t fewest = 1;
  std::uint32_t most = 1;
};

std::vector<RoundRange> round_ranges(const Problem& problem) {
  std::uint32_t limit = problem.n_layers();
  if (problem.request.max_rounds > 0) limit = std::min(limit, problem.request.max_rounds);
  if (problem.n_devices() == 1) limit = 1;
  std::vector<RoundRange> ranges;
  for (std::uint32_t fewest = 1; fewest <= limit;) {
    // One by one as far as rounds differ much, then ever wider.
    const std::uint32_t width = fewest < 5 ? 1 : fewest / 2;
    const std::uint32_t most = std::min(limit, fewest + width - 1);
    ranges.push_back({fewest, most});
    fewest = most + 1;
  }
  return ranges;
}

// A prompt's steps each have to pass all layers, and the devices can at best share the work evenly.
double least_ttft(const Problem& problem, const Relaxation& relaxation) {
  double best = kInfinity;
  for (std::size_t i = 0; i < problem.prefill.size(); ++i) {
    const StepCosts& costs = problem.prefill[i];
    Relaxation::Terms path;
    path.decode_weight = 0;
    path.kind = 1 + i;
    path.kind_weight = 1;
    const double balanced = costs.steps * relaxation.balanced_seconds(path.kind);
    if (balanced >= best) continue;
    path.limit_seconds = best;
    best = std::min(best, std::max(relaxation.least_sum(path), balanced));
  }
  return best;
}

// The first of `ranges`, from the `begin`-th to before the `end`-th, in which the period is
// feasible; `end` if none. Where it is not even with the fewest hops and the most reading ahead of
// all of them, none needs to be tried.
std::size_t first_feasible(const Relaxation& relaxation, const std::vector<RoundRange>& ranges,
                           std::size_t begin, std::size_t end, double period) {
  if (begin == end) return end;
  Relaxation::Terms terms;
  terms.period_seconds = terms.limit_seconds = period;
  terms.rounds_hops = ranges[begin].fewest;
  terms.rounds_ahead = ranges[end - 1].most;
  const bool feasible = relaxation.least_sum(terms) <= period;
  if (!feasible || end - begin == 1) return feasible ? begin : end;
  const std::size_t middle = begin + (end - begin) / 2;
  const std::size_t found = first_feasible(relaxation, ranges, begin, middle, period);
  return found < middle ? found : first_feasible(relaxation, ranges, middle, end, period);
}

// The least period of a token at which some range is feasible.
double least_tpot(const Problem& problem, const Relaxation& relaxation, double incumbent) {
  std::vector<RoundRange> ranges = round_ranges(problem);
  // Feasible in some range; ranges found infeasible are dropped where the period only falls.
  const auto feasible = [&](double period) {
    const std::size_t n = ranges.size();
    // The one that was feasible before, most likely.
    std::size_t found = first_feasible(relaxation, ranges, 0, 1, period);
    if (found > 0) found = first_feasible(relaxation, ranges, 1, n, period);
    if (found == n) return false;
    ranges.erase(ranges.begin(), ranges.begin() + static_cast<std::ptrdiff_t>(found));
    return true;
  };
  double high = incumbent;
  double low = 0;
  if (!feasible(incumbent * (1 - kBoundTolerance))) return incumbent * (1 - kBoundTolerance);
  high = incumbent * (1 - kBoundTolerance);
  // Near the incumbent first: that is where the bound usually is.
  for (double share = 0.95; share > 0.2 && low == 0; share -= (1 - share)) {
    if (feasible(incumbent * share)) {
      high = incumbent * share;
    } else {
      low = incumbent * share;
    }
  }
  while (high - low > std::max(kBoundTolerance * high, kGapTolerance * (incumbent - high))) {
    const double middle = (low + high) / 2;
    (feasible(middle) ? high : low) = middle;
  }
  return low;
}

double least_seconds_per_token(const Problem& problem, const Relaxation& relaxation,
                               double incumbent) {
  double best = kInfinity;
  for (std::size_t i = 0; i < problem.batch.size(); ++i) {
    const StepCosts& costs = problem.batch[i];
    const auto feasible = [&](double period) {
      Relaxation::Terms terms;
      terms.period_seconds = kInfinity;
      terms.decode_weight = 0;
      terms.kind = 1 + i;
      terms.kind_weight = 1;
      terms.kind_cap_seconds = period / costs.steps;
      return relaxation.least_sum(terms) <= period;
    };
    double low = 0;
    double high = incumbent * problem.request.sequences;
    if (!feasible(high)) continue;
    while (high - low > kBoundTolerance * high) {
      const double middle = (low + high) / 2;
      (feasible(middle) ? high : low) = middle;
    }
    best = std::min(best, low / problem.request.sequences);
  }
  return std::min(best, incumbent);
}

}  // namespace

double lower_bound(const Problem& problem, double incumbent_seconds) {
  const Relaxation relaxation(problem, Relaxation::Classes::exact);
  const double tokens = problem.request.answer_tokens;
  switch (problem.request.objective) {
    case Objective::tpot: return least_tpot(problem, relaxation, incumbent_seconds);
    case Objective::ttft: return std::min(incumbent_seconds, least_ttft(problem, relaxation));
    case Objective::throughput:
      return least_seconds_per_token(problem, relaxation, incumbent_seconds);
    case Objective::answer: {
      const double ttft = least_ttft(problem, relaxation);
      if (tokens == 0) return std::min(incumbent_seconds, ttft);
      const double rest = std::max(0.0, (incumbent_seconds - ttft) / tokens);
      return ttft + tokens * least_tpot(problem, relaxation, rest);
    }
  }
  return 0;
}

}  // namespace prima::plan

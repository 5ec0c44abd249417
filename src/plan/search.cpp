#include "plan/search.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "plan/gpu_fill.h"

namespace prima::plan {
namespace {

// Slots are tuned for a neighbour that is no worse than this before: where few pieces make up a
// window, slots matter more than the relaxed model knows, and trying is cheap.
constexpr double kWorthTuning = 1.3;
constexpr double kWorthTuningSmall = 8;
constexpr double kSmall = 64;  // layers times devices
// Descents from this many starting points.
constexpr std::size_t kMaxStarts = 4;
// Pieces and visits simulated (Evaluation::work), at up to half a microsecond each. Small problems
// can be searched almost completely; large ones must not take a person's time.
constexpr std::uint64_t kMaxWork = 200'000;
constexpr std::uint64_t kMaxWorkSmall = 1'000'000;
// A device more has to gain more than this share.
constexpr double kWorthADevice = 0.008;
// A format that loses precision has to gain at least this share.
constexpr double kLeastFormatGain = 0.01;

}  // namespace

Search::Search(const Problem& problem) : problem_(problem), evaluation_(problem) {
  const double size =
      static_cast<double>(problem.n_layers()) * static_cast<double>(problem.n_devices());
  small_ = size <= kSmall;
  max_work_ = small_ ? kMaxWorkSmall : kMaxWork;
}

// Cheapest hops first, from the head (nearest neighbour), then pairs swapped while that helps.
void Search::order_ring(std::vector<Share>& ring) const {
  const auto hop = [&](std::size_t a, std::size_t b) {
    return problem_.hop(problem_.decode, ring[a].device, ring[b].device)
        .total_seconds(problem_.request.link_formats[0]);
  };
  const std::size_t n = ring.size();
  if (n < 3) return;
  for (std::size_t at = 0; at + 1 < n; ++at) {
    std::size_t nearest = at + 1;
    for (std::size_t i = at + 2; i < n; ++i) {
      if (hop(at, i) < hop(at, nearest)) nearest = i;
    }
    std::swap(ring[at + 1], ring[nearest]);
  }
  const auto length = [&] {
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) sum += hop(i, (i + 1) % n);
    return sum;
  };
  double best = length();
  for (bool improved = true; improved;) {
    improved = false;
    for (std::size_t a = 1; a < n; ++a) {
      for (std::size_t b = a + 1; b < n; ++b) {
        std::reverse(ring.begin() + static_cast<std::ptrdiff_t>(a),
                     ring.begin() + static_cast<std::ptrdiff_t>(b) + 1);
        const double now = length();
        if (now < best * (1 - 1e-9)) {
          best = now;
          improved = true;
        } else {
          std::reverse(ring.begin() + static_cast<std::ptrdiff_t>(a),
                       ring.begin() + static_cast<std::ptrdiff_t>(b) + 1);
        }
      }
    }
  }
}

Decision Search::decide(const std::vector<std::uint32_t>& layers, std::uint32_t rounds) const {
  Decision decision;
  decision.rounds = rounds;
  const auto add = [&](std::size_t device) {
    Share& share = decision.ring.emplace_back();
    share.device = static_cast<std::uint32_t>(device);
    share.n_layers = layers[device];
  };
  add(problem_.cluster.head);
  for (std::size_t device = 0; device < layers.size(); ++device) {
    if (device != problem_.cluster.head && layers[device] > 0) add(device);
  }
  if (decision.ring.size() == 1) decision.rounds = 1;
  decision.hop_formats.assign(decision.ring.size(), problem_.request.link_formats[0]);
  order_ring(decision.ring);
  for (std::size_t i = 0; i < decision.ring.size(); ++i) fill_gpus(problem_, decision, i);
  return decision;
}

double Search::value(const Sized& sized, double target) {
  if (sized.excess_bytes > 0) return kNothing * (1 + sized.excess_bytes / 1e12);
  const double seconds = evaluation_.simulate(sized.decision, target);
  return std::isfinite(seconds) ? seconds : 2 * kNothing;
}

void Search::remember(const Found& found) {
  if (found.seconds < best_.seconds) best_ = found;
  Found& of_as_many = best_by_devices_[found.decision.ring.size()];
  if (found.seconds < of_as_many.seconds) of_as_many = found;
  const auto alike = [&](const Found& other) {
    if (other.decision.rounds != found.decision.rounds ||
        other.decision.ring.size() != found.decision.ring.size()) {
      return false;
    }
    for (std::size_t i = 0; i < other.decision.ring.size(); ++i) {
      if (other.decision.ring[i].device != found.decision.ring[i].device) return false;
    }
    return true;
  };
  const auto same = std::find_if(top_.begin(), top_.end(), alike);
  if (same != top_.end()) {
    if (found.seconds < same->seconds) *same = found;
  } else {
    top_.push_back(found);
  }
  std::stable_sort(top_.begin(), top_.end(),
                   [](const Found& a, const Found& b) { return a.seconds < b.seconds; });
  if (top_.size() > kMaxStarts) top_.pop_back();
}

const Decision& Search::best() const {
  for (const auto& [n_devices, found] : best_by_devices_) {
    if (found.seconds <= best_.seconds * (1 + kWorthADevice)) return found.decision;
  }
  return best_.decision;
}

void Search::consider(const Decision& decision) {
  const Sized sized = evaluation_.size(decision);
  if (sized.excess_bytes == 0 && sized.relaxed_seconds > kWorthTuning * best_.seconds) return;
  remember(judge(sized, best_.seconds));
}

std::uint32_t Search::most_rounds() const {
  const std::uint32_t asked = problem_.request.max_rounds;
  return asked > 0 ? std::min(asked, problem_.n_layers()) : problem_.n_layers();
}

void Search::improve() {
  const std::vector<Found> starts = top_;
  // What candidates have used is not counted against the descents; each gets its part of the rest.
  const std::uint64_t end = evaluation_.work() + max_work_;
  for (std::size_t i = 0; i < starts.size(); ++i) {
    const std::uint64_t used = evaluation_.work();
    max_work_ = used + (end - std::min(end, used)) / (starts.size() - i);
    remember(descend(starts[i]));
  }
}

Search::Found Search::descend(Found from) {
  while (!spent() && (step(from) || tune_slots(from))) {
  }
  tune_formats(from);
  return from;
}

// To the first neighbour, most promising first, that is better.
bool Search::step(Found& from) {
  std::vector<Sized> sized;
  for (Decision& neighbour : neighbours(from.decision)) {
    sized.push_back(evaluation_.size(std::move(neighbour)));
  }
  std::stable_sort(sized.begin(), sized.end(), [](const Sized& a, const Sized& b) {
    return a.excess_bytes != b.excess_bytes ? a.excess_bytes < b.excess_bytes
                                            : a.relaxed_seconds < b.relaxed_seconds;
  });
  const double target = from.seconds * (1 - kLeastGain);
  for (const Sized& candidate : sized) {
    if (candidate.excess_bytes == 0 && candidate.relaxed_seconds >= target) return false;
    const Found found = judge(candidate, target, &from.decision);
    if (found.seconds < target) {
      from = found;
      return true;
    }
    if (candidate.excess_bytes > 0 || spent()) return false;  // the least excess is no better
  }
  return false;
}

// The value of a sized decision with wider slots too, where it streams, and slots tuned where that
// may bring it below `target`.
Search::Found Search::judge(const Sized& candidate, double target, const Decision* before) {
  // Beyond what is worth tuning it does not matter how much.
  const double limit = target * (small_ ? kWorthTuningSmall : kWorthTuning);
  Found best{candidate.decision, value(candidate, limit)};
  if (candidate.excess_bytes > 0 || (best.seconds >= limit && !small_)) return best;
  std::vector<Decision> others{evaluation_.size(candidate.decision, 1).decision,
                               evaluation_.size(candidate.decision, 3).decision};
  if (small_) {
    for (const double share : {0.0, 0.5, 1.0}) {
      others.push_back(with_slots(candidate.decision, share));
    }
    if (before != nullptr) others.push_back(with_slots_of(*before, candidate.decision));
  }
  for (const Decision& other : others) {
    if (spent()) return best;
    if (other == candidate.decision) continue;
    const double seconds = evaluation_.simulate(other, best.seconds);
    if (seconds < best.seconds) best = {other, seconds};
  }
  if (best.seconds >= target && best.seconds < limit) tune_slots(best);
  if (small_ && best.seconds >= target) {  // the way up from the fewest may lead elsewhere
    Found least{with_slots(candidate.decision, 0), 0};
    least.seconds = evaluation_.simulate(least.decision);
    if (least.seconds < limit) tune_slots(least);
    if (least.seconds < best.seconds) best = least;
  }
  return best;
}

// The slots that each device had in `before`, where it streamed then and still does.
Decision Search::with_slots_of(const Decision& before, Decision decision) const {
  for (Share& share : decision.ring) {
    for (const Share& was : before.ring) {
      if (was.device == share.device && was.slot_bytes > 0 && share.slot_bytes > 0) {
        share.slot_bytes = was.slot_bytes;
      }
    }
  }
  return decision;
}

// Slots between the fewest (0) and all the memory that KV cache leaves (1), where anything streams.
Decision Search::with_slots(Decision decision, double share_of_room) const {
  for (std::size_t i = 0; i < decision.ring.size(); ++i) {
    Bytes& slots = decision.ring[i].slot_bytes;
    if (slots == 0) continue;
    const Load load = load_of(problem_, decision, i, windows_at(problem_, decision, i));
    const double room =
        capacity_of(problem_, decision.ring[i].device).budget_bytes - load.fixed_bytes;
    const auto grids = static_cast<Bytes>(share_of_room * room) / problem_.slot_grid;
    slots = std::max(problem_.min_slots, grids * problem_.slot_grid);
  }
  return decision;
}

bool Search::tune_slots(Found& from) {
  if (from.seconds >= kNothing) return false;
  bool improved = false;
  for (bool again = true; again && !spent();) {
    again = tune_slots_once(from);
    improved = improved || again;
    if (!small_) break;  // the next step of the descent tunes again
  }
  return improved;
}

bool Search::tune_slots_once(Found& from) {
  bool improved = false;
  for (std::size_t i = 0; i < from.decision.ring.size(); ++i) {
    if (from.decision.ring[i].slot_bytes == 0) continue;
    for (const std::int64_t grids :
         {1, -1, 2, -2, 3, -3, 4, -4, 6, -6, 8, -8, 12, -12, 16, -16, 32, -32}) {
      if (spent()) return improved;
      Decision changed = from.decision;
      const auto slots = static_cast<std::int64_t>(changed.ring[i].slot_bytes) +
                         grids * static_cast<std::int64_t>(problem_.slot_grid);
      if (slots < static_cast<std::int64_t>(problem_.min_slots)) continue;
      changed.ring[i].slot_bytes = static_cast<Bytes>(slots);
      const double target = from.seconds * (1 - kLeastGain);
      const double seconds = evaluation_.simulate(changed, target);
      if (seconds >= target) continue;
      from = {changed, seconds};
      improved = true;
    }
  }
  return improved;
}

bool Search::tune_formats(Found& from) {
  bool improved = false;
  for (std::size_t i = 0; from.seconds < kNothing && i < from.decision.ring.size(); ++i) {
    for (const LinkFormat format : problem_.request.link_formats) {
      Decision changed = from.decision;
      changed.hop_formats[i] = format;
      const double target = from.seconds * (1 - kLeastFormatGain);
      const double seconds = evaluation_.simulate(changed, target);
      if (seconds >= target) continue;
      from = {changed, seconds};
      improved = true;
    }
  }
  return improved;
}

}  // namespace prima::plan

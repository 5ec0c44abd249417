#include "weights/stream_schedule.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>

#include "weights/slot_memory.h"

namespace prima::weights {
namespace {

// What a disk needs free besides the stage in use to go on reading: a queue of large reads.
constexpr Bytes kReadAhead = 8 * kMiB;

struct Sizes {
  std::span<const Bytes> stages;
  Bytes total = 0;
  std::set<Bytes> distinct;

  explicit Sizes(std::span<const Bytes> stage_bytes) : stages(stage_bytes) {
    total = std::accumulate(stages.begin(), stages.end(), Bytes{0});
    distinct.insert(stages.begin(), stages.end());
  }
  Bytes total_above(Bytes size) const {
    Bytes sum = 0;
    for (const Bytes stage : stages) sum += stage > size ? stage : 0;
    return sum;
  }
};

Bytes smallest_slot_bytes(Bytes largest_stage) {
  return align_up(largest_stage, SlotMemory::kAlignment);
}

// Spreads `needed` bytes of streaming over the stages of at most `largest` bytes: walks the cycle
// and streams a stage wherever what has been streamed so far lags behind an even share.
class EvenSpread {
 public:
  EvenSpread(std::span<const Bytes> stages, Bytes largest, Bytes needed,
             const std::vector<bool>* streamed_now)
      : stages_(stages), largest_(largest), needed_(needed), streamed_(stages.size()) {
    total_ = std::accumulate(stages.begin(), stages.end(), 0.0);
    if (streamed_now != nullptr) {
      streamed_ = *streamed_now;
      for (std::size_t i = 0; i < stages_.size(); ++i) {
        if (streamed_[i]) streamed_bytes_ += stages_[i];
      }
    } else {
      walk();
    }
    const bool only_more = streamed_now != nullptr && streamed_bytes_ < needed_;
    while (streamed_bytes_ < needed_) flip(most_out_of_step(false, largest_));
    if (only_more) return;  // taking one back for a closer fit would be a change the other way
    while (const auto excess = most_out_of_step(true, streamed_bytes_ - needed_)) flip(excess);
  }

  std::vector<bool> take() && { return std::move(streamed_); }

 private:
  void walk() {
    Bytes so_far = 0;
    Bytes streamed_so_far = 0;
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      so_far += stages_[i];
      const double due = even_share(so_far) - static_cast<double>(streamed_so_far);
      if (stages_[i] > largest_ || due < 0.5 * static_cast<double>(stages_[i])) continue;
      streamed_[i] = true;
      streamed_so_far += stages_[i];
    }
    streamed_bytes_ = streamed_so_far;
  }

  double even_share(Bytes so_far) const {
    return static_cast<double>(needed_) * static_cast<double>(so_far) / total_;
  }

  // Of the stages of at most `limit` bytes that are streamed (or not): the one where streaming is
  // furthest ahead of (behind) its even share.
  std::optional<std::size_t> most_out_of_step(bool streamed, Bytes limit) const {
    std::optional<std::size_t> worst;
    double worst_lead = 0;
    Bytes so_far = 0;
    double streamed_so_far = 0;
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      so_far += stages_[i];
      if (streamed_[i]) streamed_so_far += static_cast<double>(stages_[i]);
      if (streamed_[i] != streamed || stages_[i] > std::min(limit, largest_)) continue;
      const double behind = even_share(so_far) - streamed_so_far;
      const double lead = streamed ? -behind : behind;
      if (!worst || lead > worst_lead) {
        worst = i;
        worst_lead = lead;
      }
    }
    return worst;
  }

  void flip(std::optional<std::size_t> stage) {
    streamed_[*stage] = !streamed_[*stage];
    if (streamed_[*stage]) {
      streamed_bytes_ += stages_[*stage];
    } else {
      streamed_bytes_ -= stages_[*stage];
    }
  }

  std::span<const Bytes> stages_;
  Bytes largest_;
  Bytes needed_;
  double total_ = 0;
  std::vector<bool> streamed_;
  Bytes streamed_bytes_ = 0;
};

// Streams stages of at most `largest` bytes through `slots`. nullopt where those take too much.
std::optional<StreamSchedule> streaming_of(const Sizes& sizes, Bytes budget, Bytes largest,
                                           Bytes slots,
                                           const std::vector<bool>* streamed_now = nullptr) {
  if (budget < slots + sizes.total_above(largest)) return std::nullopt;
  StreamSchedule schedule;
  const Bytes needed = sizes.total - (budget - slots);
  schedule.streamed = EvenSpread(sizes.stages, largest, needed, streamed_now).take();
  schedule.slot_bytes = slots;
  for (std::size_t i = 0; i < sizes.stages.size(); ++i) {
    if (schedule.streamed[i]) schedule.streamed_bytes += sizes.stages[i];
  }
  schedule.resident_bytes = sizes.total - schedule.streamed_bytes;
  return schedule;
}

constexpr Bytes kSlotStep = SlotMemory::kAlignment;

// Reads in flight hold their slots' memory but are no bytes yet: this long is a read under way.
constexpr double kReadSeconds = 0.004;

// The seconds a cycle takes where the devices of a ring take turns. The gaps are as long as this
// device's own active time makes them, by its share; longer gaps leave more time to read ahead, so
// the active time falls with them, and there is one balance.
double ring_cycle_seconds(std::span<const Bytes> stage_bytes, const StreamSchedule& schedule,
                          const StreamConditions& conditions) {
  const double disk = conditions.disk_bytes_per_second;
  const Bytes under_way = std::min(kReadAhead, static_cast<Bytes>(disk * kReadSeconds));
  const Bytes slots = std::max(schedule.slot_bytes, under_way + kMiB) - under_way;
  double compute_seconds = 0;
  std::vector<StageTiming> cycle;
  for (std::size_t i = 0; i < stage_bytes.size(); ++i) {
    const double seconds =
        static_cast<double>(stage_bytes[i]) / conditions.compute_bytes_per_second;
    compute_seconds += seconds;
    cycle.push_back({stage_bytes[i], schedule.streamed[i], seconds, 0});
  }
  const double others = (1 - conditions.share) / conditions.share;
  if (conditions.window_ends.empty() || others <= 0) {
    return steady_state_seconds(cycle, slots, disk);
  }
  const auto with_gaps = [&](double gaps) {
    const double each = gaps / static_cast<double>(conditions.window_ends.size());
    for (const std::size_t end : conditions.window_ends) cycle[end].gap_seconds = each;
    return steady_state_seconds(cycle, slots, disk);
  };
  double low = compute_seconds * others;
  double seconds = with_gaps(low);
  double high = std::max(low, (seconds - low) * others);
  for (int i = 0; i < 12 && high - low > 0.002 * high; ++i) {
    const double gaps = (low + high) / 2;
    seconds = with_gaps(gaps);
    ((seconds - gaps) * others > gaps ? low : high) = gaps;
  }
  return seconds;
}

}  // namespace

Result<StreamSchedule> fastest_schedule(std::span<const Bytes> stage_bytes, Bytes budget,
                                        const StreamConditions& conditions) {
  PRIMA_ASSIGN_OR_RETURN(StreamSchedule comfortable, schedule_streaming(stage_bytes, budget));
  if (comfortable.streamed_bytes == 0) return comfortable;
  struct Candidate {
    StreamSchedule schedule;
    double seconds = 0;
  };
  std::vector<Candidate> candidates;
  const Sizes sizes(stage_bytes);
  double shortest = std::numeric_limits<double>::infinity();
  for (const Bytes largest : sizes.distinct) {
    const Bytes least = smallest_slot_bytes(largest);
    const Bytes most =
        conditions.can_be_in_place ? budget : std::max(least, most_own_slot_bytes(budget));
    // Steps of an eighth find the best within a few percent.
    for (Bytes slots = least; slots <= most; slots += align_up(slots / 8, kSlotStep)) {
      auto schedule = streaming_of(sizes, budget, largest, slots);
      if (!schedule) break;
      const double seconds = ring_cycle_seconds(stage_bytes, *schedule, conditions);
      shortest = std::min(shortest, seconds);
      candidates.push_back({std::move(*schedule), seconds});
    }
  }
  // Of those that are as good as the best, the one that reads least: the disk may be slower, or
  // wanted by others.
  constexpr double kAsGood = 1.01;
  const Candidate* best = nullptr;
  for (const Candidate& candidate : candidates) {
    if (candidate.seconds > kAsGood * shortest) continue;
    if (best == nullptr || candidate.schedule.streamed_bytes < best->schedule.streamed_bytes) {
      best = &candidate;
    }
  }
  return best != nullptr ? best->schedule : comfortable;
}

Bytes most_own_slot_bytes(Bytes budget) {
  constexpr Bytes kSmallDevice = 3 * kGiB + 512 * kMiB;
  return budget < kSmallDevice ? 48 * kMiB : budget / 22;
}

Bytes comfortable_slot_bytes(Bytes largest_stage, Bytes budget) {
  // A second stage's worth is all that is ever of use to one device. It costs residency, so it must
  // also be small against the budget.
  const Bytes most = largest_stage;
  const Bytes least = std::min(most, std::max(largest_stage / 4, kReadAhead));
  const Bytes ahead = std::clamp(budget / 32, least, most);
  return align_up(largest_stage + ahead, SlotMemory::kAlignment);
}

Bytes smallest_stream_budget(std::span<const Bytes> stage_bytes) {
  const Sizes sizes(stage_bytes);
  Bytes smallest = sizes.total;
  for (const Bytes largest : sizes.distinct) {
    smallest = std::min(smallest, sizes.total_above(largest) + smallest_slot_bytes(largest));
  }
  return smallest;
}

Result<StreamSchedule> schedule_streaming(std::span<const Bytes> stage_bytes, Bytes budget,
                                          std::optional<Bytes> slot_bytes,
                                          const std::vector<bool>* streamed_now) {
  const Sizes sizes(stage_bytes);
  StreamSchedule schedule;
  schedule.streamed.assign(stage_bytes.size(), false);
  schedule.resident_bytes = sizes.total;
  if (sizes.total <= budget) return schedule;

  // The smallest stages that can be the streamed ones need the least slot memory.
  std::optional<Bytes> largest_streamed;
  Bytes slots = 0;
  for (const Bytes largest : sizes.distinct) {
    const Bytes above = sizes.total_above(largest);
    if (budget < above + smallest_slot_bytes(largest)) continue;
    const Bytes left = align_down(budget - above, SlotMemory::kAlignment);
    if (slot_bytes && (*slot_bytes < smallest_slot_bytes(largest) || *slot_bytes > left)) continue;
    largest_streamed = largest;
    const Bytes wanted = slot_bytes.value_or(comfortable_slot_bytes(largest, budget));
    slots = std::min(wanted, left);
    if (slots == wanted && streamed_now == nullptr) break;
  }
  if (!largest_streamed) {
    const Bytes enough = smallest_stream_budget(stage_bytes);
    const std::string with_slots =
        slot_bytes ? " with " + format_bytes(*slot_bytes) + " of slots" : "";
    return fail(
        ErrorCode::resource_exhausted,
        format_bytes(budget) + " of memory for weights are too little" + with_slots,
        "At least " + format_bytes(enough) + " (" + std::to_string(enough) + " bytes) are needed");
  }
  return *streaming_of(sizes, budget, *largest_streamed, slots, streamed_now);
}

double steady_state_seconds(std::span<const StageTiming> cycle, Bytes slot_bytes,
                            double disk_bytes_per_second) {
  // Bytes are counted from the start: read so far, wanted by the next streamed stage, released.
  const auto slots = static_cast<double>(slot_bytes);
  double now = 0;
  double read = 0;
  double wanted = 0;
  double released = 0;
  const auto pass = [&](double seconds) {
    now += seconds;
    read = std::min(read + seconds * disk_bytes_per_second, released + slots);
  };
  constexpr int kCycles = 12;  // the start has worn off long before
  double start_of_last = 0;
  for (int i = 0; i < kCycles; ++i) {
    start_of_last = now;
    for (const StageTiming& stage : cycle) {
      if (stage.streamed) {
        wanted += static_cast<double>(stage.bytes);
        if (read < wanted) pass((wanted - read) / disk_bytes_per_second);
        read = std::max(read, wanted);  // rounding must not lose a byte
      }
      pass(stage.compute_seconds);
      if (stage.streamed) released = wanted;
      pass(stage.gap_seconds);
    }
  }
  return now - start_of_last;
}

}  // namespace prima::weights

#include "plan/simulator.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <queue>

#include "plan/device_timeline.h"
#include "plan/infinity.h"

namespace prima::plan {
namespace {

// The steady state is found when every event recurs after the same time, to this share of it.
constexpr double kPeriodTolerance = 1e-4;
// A cycle that lasts several tokens, or a reserve in the slots that drains slowly, may need more
// tokens than this; then the mean over the later half is taken.
constexpr std::uint32_t kMaxTokens = 96;

// Where a step is, or will be next.
struct Place {
  std::uint32_t visit = 0;
  std::uint32_t position = 0;
};

struct Event {
  double time = 0;
  std::uint64_t order = 0;  // among equals: as they were made
  std::uint32_t step = 0;
  bool is_end = false;  // of a visit; else the arrival before it
  bool operator>(const Event& other) const {
    return time != other.time ? time > other.time : order > other.order;
  }
};

class Simulation {
 public:
  Simulation(const SimulatedRing& ring, bool is_prompt)
      : ring_(ring), n_(static_cast<std::uint32_t>(ring.devices.size())), is_prompt_(is_prompt) {
    states_.reserve(n_);
    for (const SimulatedDevice& device : ring.devices) {
      states_.emplace_back(device, ring.steps, is_prompt);
      in_waves_ = in_waves_ || states_.back().streams();
    }
    busiest_ = is_prompt ? 0 : busiest_seconds(ring);
    busy_.assign(n_, false);
    expected_.assign(n_, 0);
    waiting_.resize(n_);
    link_free_.assign(n_, 0);
    places_.resize(ring.steps);
    visits_.assign(static_cast<std::size_t>(n_) * (ring.rounds + 1) * ring.steps, Recurrence{});
    disks_.resize(n_);
    for (std::uint32_t step = 0; step < ring.steps; ++step) push(0, step, false);
  }

  double prompt() {
    while (!events_.empty()) {
      const Event event = pop();
      if (event.is_end && places_[event.step].visit == ring_.rounds) return event.time;
      handle(event);
    }
    assert(false);
    return 0;
  }

  double period(std::vector<DeviceTrace>* traces) {
    std::vector<double> outputs;  // of the last step in flight
    while (outputs.size() < kMaxTokens) {
      const Event event = pop();
      const bool is_output = is_last_output(event);
      handle(event);
      if (!is_output) continue;
      outputs.push_back(event.time);
      if (const double settled = settled_period(); settled > 0) {
        if (traces != nullptr) trace_token(event.time, settled, traces);
        return settled;
      }
    }
    const std::size_t half = outputs.size() / 2;
    const double mean =
        (outputs.back() - outputs[half]) / static_cast<double>(outputs.size() - 1 - half);
    const double result = std::max(mean, busiest_);
    if (traces != nullptr) trace_token(outputs.back(), result, traces);
    return result;
  }

 private:
  // Times of an event that comes once a token: the last, and the time since the one before.
  struct Recurrence {
    bool seen = false;
    double last = 0;
    double interval = -1;  // below 0: not known yet
    void at(double time) {
      interval = seen ? time - last : -1;
      last = time;
      seen = true;
    }
  };

  bool is_last_output(const Event& event) const {
    return event.is_end && places_[event.step].visit == ring_.rounds &&
           event.step + 1 == ring_.steps;
  }

  Event pop() {
    const Event event = events_.top();
    events_.pop();
    return event;
  }
  void push(double time, std::uint32_t step, bool is_end) {
    events_.push({time, order_++, step, is_end});
  }

  void handle(const Event& event) {
    const Place place = places_[event.step];
    if (event.is_end) {
      busy_[place.position] = false;
      recurrence(place, event.step).at(event.time);
      leave(event.step, event.time);
    } else {
      waiting_[place.position].push_back(event.step);
    }
    start_next(place.position, event.time);
  }

  Recurrence& recurrence(Place place, std::uint32_t step) {
    return visits_[(static_cast<std::size_t>(place.position) * (ring_.rounds + 1) + place.visit) *
                       ring_.steps +
                   step];
  }

  // From the visit that `step` has ended to its next.
  void leave(std::uint32_t step, double now) {
    Place& place = places_[step];
    const std::uint32_t from = place.position;
    if (place.visit == ring_.rounds) {  // a token is out; the next begins on the same device
      place.visit = 0;
      push(now, step, false);
      return;
    }
    if (++place.position == n_) {
      place.position = 0;
      ++place.visit;
      if (is_prompt_ && place.visit == ring_.rounds && step + 1 != ring_.steps) return;
    }
    push(n_ == 1 ? now : send(from, now), step, false);
  }

  // When what device `from` sends at `now` has arrived.
  double send(std::uint32_t from, double now) {
    const SimulatedDevice& device = ring_.devices[from];
    const double transmit = device.hop.transmit_seconds[static_cast<int>(device.hop_format)];
    double& medium = device.hop.shared_medium ? air_free_ : link_free_[from];
    const double begin = std::max(now, medium);
    medium = begin + transmit;
    const double arrival = begin + transmit + device.hop.latency_seconds;
    if (traces_ != nullptr) {
      add_span((*traces_)[from], Activity::network, now, arrival);
    }
    return arrival;
  }

  void start_next(std::uint32_t position, double now) {
    auto& waiting = waiting_[position];
    if (busy_[position] || waiting.empty()) return;
    auto next = waiting.begin();
    if (in_waves_ && ring_.steps > 1) {
      const std::uint32_t expected = expected_[position];
      next = std::find_if(waiting.begin(), waiting.end(), [&](std::uint32_t step) {
        return places_[step].visit * ring_.steps + step == expected;
      });
      if (next == waiting.end()) return;
      advance_expected(position);
    } else if (position == 0) {  // outputs first: a sequence that has its token can go on
      next = std::find_if(waiting.begin(), waiting.end(),
                          [&](std::uint32_t step) { return places_[step].visit == ring_.rounds; });
      if (next == waiting.end()) next = waiting.begin();
    }
    const std::uint32_t step = *next;
    waiting.erase(next);
    busy_[position] = true;
    DeviceTrace* trace = traces_ != nullptr ? &(*traces_)[position] : nullptr;
    const std::uint32_t visit = places_[step].visit;
    // Of a prompt, the last step alone has an output: the first to need its weights.
    const bool is_only_step = is_prompt_ && visit == ring_.rounds;
    push(states_[position].run(visit, is_only_step ? 0 : step, now, trace), step, true);
  }

  // Waves: all steps of one visit, then the next visit's. A prompt has one output only.
  void advance_expected(std::uint32_t position) {
    const std::uint32_t visits = ring_.rounds + (position == 0 ? 1 : 0);
    std::uint32_t& expected = expected_[position];
    expected = (expected + 1) % (visits * ring_.steps);
    if (is_prompt_ && expected == ring_.rounds * ring_.steps) expected += ring_.steps - 1;
  }

  // The period, if all that happened since the token before came after the same time, or if the
  // slowest recurrence is what the busiest disk or device needs, which nothing can undercut: then a
  // reserve in slots or queues is being used up, and will be. Else 0.
  double settled_period() {
    double least = kInfinity;
    double most = 0;
    const auto see = [&](const Recurrence& recurrence) {
      least = std::min(least, recurrence.interval);
      most = std::max(most, recurrence.interval);
    };
    for (const Recurrence& visit : visits_) {
      if (visit.seen) see(visit);
    }
    for (std::uint32_t i = 0; i < n_; ++i) {
      if (!states_[i].streams()) continue;
      disks_[i].at(states_[i].disk_free());
      see(disks_[i]);
    }
    if (least < 0) return 0;
    const bool same = most - least <= kPeriodTolerance * most;
    const bool bound = most - busiest_ <= kPeriodTolerance * most;
    settled_tokens_ = same || bound ? settled_tokens_ + 1 : 0;
    return settled_tokens_ >= 2 ? std::max(most, busiest_) : 0;
  }

  // Simulates on to the next output with spans recorded. All recur after `period`, so what lies
  // outside the token (a disk reads ahead for it before it begins) is moved into it.
  void trace_token(double start, double period, std::vector<DeviceTrace>* traces) {
    traces->assign(n_, DeviceTrace{});
    traces_ = traces;
    while (true) {
      const Event event = pop();
      if (is_last_output(event)) break;
      handle(event);
    }
    traces_ = nullptr;
    for (DeviceTrace& trace : *traces) fold(trace, start, period);
  }

  static void fold(DeviceTrace& trace, double start, double period) {
    std::vector<Span> inside;
    for (const Span& span : trace.spans) {
      const double seconds = std::min(span.end_seconds - span.start_seconds, period);
      switch (span.activity) {
        case Activity::compute: trace.time.compute_seconds += seconds; break;
        case Activity::disk_wait: trace.time.disk_wait_seconds += seconds; break;
        case Activity::network: trace.time.network_seconds += seconds; break;
        case Activity::disk_read: break;  // beside the rest, not instead of it
      }
      double begin = std::fmod(span.start_seconds - start, period);
      if (begin < 0) begin += period;
      inside.push_back({span.activity, begin, std::min(begin + seconds, period)});
      if (begin + seconds > period) inside.push_back({span.activity, 0, begin + seconds - period});
    }
    const TimeShares& time = trace.time;
    trace.time.idle_seconds = std::max(
        0.0, period - time.compute_seconds - time.disk_wait_seconds - time.network_seconds);
    std::stable_sort(inside.begin(), inside.end(), [](const Span& a, const Span& b) {
      return a.start_seconds < b.start_seconds;
    });
    trace.spans = std::move(inside);
  }

  const SimulatedRing& ring_;
  std::uint32_t n_;
  bool is_prompt_;
  bool in_waves_ = false;
  double busiest_ =
      0;  // seconds of one token's work of the busiest disk or device: no period is less
  std::vector<DeviceTimeline> states_;
  std::vector<bool> busy_;
  std::vector<std::uint32_t> expected_;  // visit * steps + step that a device serves next, in waves
  std::vector<std::vector<std::uint32_t>> waiting_;  // steps, in order of arrival
  std::vector<double> link_free_;
  double air_free_ = 0;
  std::vector<Place> places_;  // by step
  std::vector<Recurrence> visits_;
  std::vector<Recurrence> disks_;
  std::uint32_t settled_tokens_ = 0;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::uint64_t order_ = 0;
  std::vector<DeviceTrace>* traces_ = nullptr;
};

}  // namespace

double simulate_period(const SimulatedRing& ring, std::vector<DeviceTrace>* traces) {
  return Simulation(ring, false).period(traces);
}

double simulate_prompt(const SimulatedRing& ring) { return Simulation(ring, true).prompt(); }

}  // namespace prima::plan

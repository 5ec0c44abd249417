// What the simulator is never below, from the work of whole visits instead of pieces:
// least_period() and least_prompt() of simulator.h.
#include <algorithm>
#include <vector>

#include "plan/simulator.h"

namespace prima::plan {
namespace {

// Of one visit and one step.
struct Work {
  double compute_seconds = 0;
  double read_bytes = 0;
};

Work work_of(const std::vector<SimulatedItem>& visit) {
  Work work;
  for (const SimulatedItem& item : visit) {
    work.compute_seconds += item.compute_seconds;
    work.read_bytes += static_cast<double>(item.read_bytes);
  }
  return work;
}

// When the first and the last of the steps are somewhere; those between are evenly in between, so
// no path through them is longer.
struct Times {
  double first = 0;
  double last = 0;
};

// A processor or a link: serves all steps of one round before the next round's.
class Server {
 public:
  // `steps` that arrive at `arrival`, each served for `seconds`; when they leave.
  Times serve(Times arrival, double seconds, std::uint32_t steps) {
    start_ = std::max(arrival.first, free_);
    Times leave;
    leave.first = start_ + seconds;
    leave.last = std::max(start_ + seconds * steps, arrival.last + seconds);
    free_ = leave.last;
    return leave;
  }
  double start() const { return start_; }
  void busy_until(double time) { free_ = time; }

 private:
  double start_ = 0;  // of the last round served
  double free_ = 0;
};

// A disk that reads ahead as far as its slots, which are full at first, have room. At `now`, when
// the pieces before byte x have been computed, all before x + slots has been read at most; the rest
// takes its time.
class Disk {
 public:
  explicit Disk(const SimulatedDevice& device)
      : slot_bytes_(static_cast<double>(device.slot_bytes)),
        seconds_per_byte_(1 / device.disk_bytes_per_second) {}

  bool holds(double bytes) const { return bytes <= slot_bytes_; }
  void computed(double now) {
    latest_ = std::max(latest_, now - computed_bytes_ * seconds_per_byte_);
  }
  void add(double bytes) { computed_bytes_ += bytes; }
  // When the next `bytes` have been read.
  double read_at(double bytes) const {
    return latest_ + (computed_bytes_ + bytes - slot_bytes_) * seconds_per_byte_;
  }

 private:
  double slot_bytes_;
  double seconds_per_byte_;
  double computed_bytes_ = 0;
  double latest_ = 0;  // the most of `now` less what reading all computed before takes
};

struct Station {
  explicit Station(const SimulatedDevice& device) : disk(device) {}
  Server processor;
  Server link;
  Disk disk;
};

Times visit(Station& station, const Work& work, Times arrival, std::uint32_t steps) {
  Times leave = station.processor.serve(arrival, work.compute_seconds, steps);
  if (work.read_bytes == 0) return leave;
  Disk& disk = station.disk;
  disk.computed(station.processor.start());
  leave.first = std::max(leave.first, disk.read_at(work.read_bytes));
  leave.last = std::max(leave.last, leave.first + (steps - 1) * work.compute_seconds);
  if (!disk.holds(work.read_bytes) && steps > 1) {  // read again for each step
    disk.add(work.read_bytes * (steps - 1));
    disk.computed(arrival.last);
    leave.last = std::max(leave.last, disk.read_at(work.read_bytes));
  }
  disk.add(work.read_bytes);
  station.processor.busy_until(leave.last);
  return leave;
}

}  // namespace

double least_prompt(const SimulatedRing& ring) {
  std::vector<Station> stations(ring.devices.begin(), ring.devices.end());
  std::uint32_t steps = ring.steps;
  Times now;
  double air_seconds = 0;  // of all steps, on a medium that they share
  double first_sent = 0;
  for (std::uint32_t round = 0; round < ring.rounds; ++round) {
    for (std::size_t i = 0; i < stations.size(); ++i) {
      const SimulatedDevice& device = ring.devices[i];
      now = visit(stations[i], work_of(device.visits[round]), now, steps);
      if (round == 0 && i == 0) first_sent = now.first;
      if (round + 1 == ring.rounds && i + 1 == stations.size()) {
        steps = 1;  // the last alone goes on to the output layer
        now.first = now.last;
      }
      if (stations.size() == 1) continue;
      const double transmit = device.hop.transmit_seconds[static_cast<int>(device.hop_format)];
      if (device.hop.shared_medium) air_seconds += transmit * steps;
      now = stations[i].link.serve(now, transmit, steps);
      now.first += device.hop.latency_seconds;
      now.last += device.hop.latency_seconds;
    }
  }
  now.first = now.last = std::max(now.last, first_sent + air_seconds);
  return visit(stations.front(), work_of(ring.devices.front().visits[ring.rounds]), now, steps)
      .last;
}

double busiest_seconds(const SimulatedRing& ring) {
  double busiest = 0;
  for (const SimulatedDevice& device : ring.devices) {
    double compute = 0;
    double read = 0;
    for (const auto& items : device.visits) {
      const Work work = work_of(items);
      compute += work.compute_seconds * ring.steps;
      const bool holds = work.read_bytes <= static_cast<double>(device.slot_bytes);
      read += work.read_bytes * (holds ? 1 : ring.steps);
    }
    busiest = std::max(busiest, compute);
    if (read > 0) busiest = std::max(busiest, read / device.disk_bytes_per_second);
  }
  return busiest;
}

double least_period(const SimulatedRing& ring) {
  double path = 0;
  for (const SimulatedDevice& device : ring.devices) {
    for (const auto& items : device.visits) {
      const Work work = work_of(items);
      const double exposed = work.read_bytes - static_cast<double>(device.slot_bytes);
      path += exposed > 0 ? std::max(work.compute_seconds, exposed / device.disk_bytes_per_second)
                          : work.compute_seconds;
    }
    if (ring.devices.size() == 1) continue;
    path += ring.rounds * device.hop.total_seconds(device.hop_format);
  }
  return std::max(path, busiest_seconds(ring));
}

}  // namespace prima::plan

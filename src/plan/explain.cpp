#include "plan/explain.h"

#include <algorithm>
#include <cstdio>
#include <limits>

#include "plan/halda.h"
#include "plan/search.h"

namespace prima::plan {
namespace {

// A disk that reads for this share of the period or more is what the period waits for.
constexpr double kBusy = 0.97;
// Gains below this are not worth a person's money.
constexpr double kWorthTelling = 1.02;

std::string printed(const char* format, double a, double b = 0) {
  char text[160];
  std::snprintf(text, sizeof text, format, a, b);
  return text;
}

double read_seconds(const DevicePlan& device, const Problem& problem) {
  const double disk = problem.cluster.devices[device.device].disk_read_bytes_per_second;
  return disk > 0 ? device.read_bytes_per_token / disk : 0;
}

}  // namespace

std::string bottleneck_of(const Plan& plan, const Problem& problem) {
  const DevicePlan* busiest_disk = nullptr;
  double longest_read = 0;
  double compute = 0;
  double waiting = 0;
  double network = 0;
  const DevicePlan* slowest = nullptr;
  const DevicePlan* longest_wait = nullptr;
  for (const DevicePlan& device : plan.ring) {
    const double read = read_seconds(device, problem);
    if (read > longest_read) {
      longest_read = read;
      busiest_disk = &device;
    }
    compute += device.time.compute_seconds;
    waiting += device.time.disk_wait_seconds;
    network += device.time.network_seconds;
    if (!slowest || device.time.compute_seconds > slowest->time.compute_seconds) slowest = &device;
    if (!longest_wait || device.time.disk_wait_seconds > longest_wait->time.disk_wait_seconds) {
      longest_wait = &device;
    }
  }
  if (busiest_disk && longest_read >= kBusy * plan.tpot_seconds) {
    const double disk = problem.cluster.devices[busiest_disk->device].disk_read_bytes_per_second;
    return "The disk of " + busiest_disk->name + " never rests: it reads " +
           format_bytes(static_cast<Bytes>(busiest_disk->read_bytes_per_token)) + " at " +
           format_bytes_per_second(disk) + " for every token.";
  }
  const double total = std::max(compute + waiting + network, 1e-12);
  if (compute >= waiting && compute >= network) {
    return "Computing takes " + printed("%.0f %%", 100 * compute / total) +
           " of a token's way, most of it on " + slowest->name + " (" +
           printed("%.1f ms", 1e3 * slowest->time.compute_seconds) + ").";
  }
  if (waiting >= network) {
    return "Waiting for disks takes " + printed("%.0f %%", 100 * waiting / total) +
           " of a token's way, most of it on " + longest_wait->name + " (" +
           printed("%.1f ms", 1e3 * longest_wait->time.disk_wait_seconds) +
           "), whose slots can't hold more of what it has to read.";
  }
  return "The network takes " + printed("%.0f %%", 100 * network / total) + " of a token's way: " +
         printed("%.0f hops of %.1f ms", static_cast<double>(plan.ring.size()) * plan.rounds,
                 1e3 * network / (static_cast<double>(plan.ring.size()) * plan.rounds)) +
         " on average.";
}

Result<std::vector<LeftOut>> left_out_of(const Plan& plan, const Cluster& cluster,
                                         const ModelShape& shape) {
  PRIMA_ASSIGN_OR_RETURN(const Problem problem, make_problem(cluster, shape, plan.request));
  std::vector<LeftOut> left_out;
  std::vector<std::uint32_t> layers(problem.n_devices(), 0);
  for (const DevicePlan& device : plan.ring) {
    for (const Window& window : device.windows) layers[device.device] += window.n_layers;
  }
  const auto in_use = [&](std::size_t device) {
    return std::any_of(plan.ring.begin(), plan.ring.end(),
                       [&](const DevicePlan& used) { return used.device == device; });
  };
  for (std::size_t device = 0; device < problem.n_devices(); ++device) {
    if (in_use(device)) continue;
    const std::string& name = problem.cluster.devices[device].name;
    if (problem.budget[device] == 0) {
      left_out.push_back({device, name, "its memory is taken up by the reserve and buffers"});
      continue;
    }
    // The best of what it could relieve each other device of.
    Search search(problem);
    for (std::size_t donor = 0; donor < problem.n_devices(); ++donor) {
      for (std::uint32_t count = 1; count <= layers[donor]; count *= 2) {
        auto with = layers;
        with[donor] -= count;
        with[device] += count;
        search.consider(search.decide(with, plan.rounds));
      }
    }
    if (!search.found()) {
      left_out.push_back({device, name, "no layer fits its memory"});
      continue;
    }
    const double slower = 100 * (search.best_seconds() / plan.objective_seconds - 1);
    left_out.push_back({device, name,
                        slower < -0.05
                            ? printed("it would gain %.1f %%, too little to wait for it", -slower)
                        : slower < 0.05 ? std::string("it would change nothing")
                                        : "the best use found of it would make the rest " +
                                              printed("%.1f %% slower", slower)});
  }
  return left_out;
}

std::vector<WhatIf> what_would_help(const Plan& plan, const Cluster& cluster,
                                    const ModelShape& shape) {
  std::vector<WhatIf> answers;
  const auto ask = [&](const std::string& change, const Cluster& changed, bool always) {
    const auto other = make_plan(changed, shape, plan.request);
    if (!other) return;
    const double speedup = plan.objective_seconds / other->objective_seconds;
    if (always || speedup >= kWorthTelling) answers.push_back({change, speedup});
  };
  const auto uses = [&](std::size_t device) {
    return std::any_of(plan.ring.begin(), plan.ring.end(),
                       [&](const DevicePlan& used) { return used.device == device; });
  };
  for (std::size_t i = 0; i < cluster.devices.size(); ++i) {
    const std::string& name = cluster.devices[i].name;
    Cluster changed = cluster;
    changed.devices[i].memory_available_bytes += 2 * kGiB;
    ask("2 GiB more on " + name, changed, false);
    if (uses(i) && cluster.devices[i].disk_read_bytes_per_second > 0) {
      changed = cluster;
      changed.devices[i].disk_read_bytes_per_second *= 2;
      ask("a disk twice as fast on " + name, changed, false);
    }
  }
  const bool any_wifi = std::any_of(cluster.links.begin(), cluster.links.end(),
                                    [](const auto& link) { return link.shared_medium; });
  if (any_wifi) {
    Cluster changed = cluster;
    for (profile::LinkProfile& link : changed.links) {
      if (link.shared_medium) link = {0.0004, 117e6, 117e6, false};  // gigabit, 0.2 ms one way
    }
    ask("Ethernet instead of Wi-Fi", changed, false);
  }
  for (std::size_t i = 0; i < cluster.devices.size(); ++i) {
    if (i == cluster.head || !uses(i)) continue;
    Cluster changed = cluster;
    changed.links.clear();
    for (std::size_t a = 0; a < cluster.devices.size(); ++a) {
      for (std::size_t b = a + 1; b < cluster.devices.size(); ++b) {
        if (a == i || b == i) continue;
        changed.links.push_back(cluster.links[link_index(cluster.devices.size(), a, b)]);
      }
    }
    changed.devices.erase(changed.devices.begin() + static_cast<std::ptrdiff_t>(i));
    if (changed.head > i) --changed.head;
    ask("without " + cluster.devices[i].name, changed, true);
  }
  std::stable_sort(answers.begin(), answers.end(),
                   [](const WhatIf& a, const WhatIf& b) { return a.speedup > b.speedup; });
  return answers;
}

}  // namespace prima::plan

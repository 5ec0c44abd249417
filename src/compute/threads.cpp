#include "compute/threads.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace prima::compute {

namespace {

#if defined(__linux__)
// Processors' worth of time that a container may take; 0 without a limit. As it sees its own
// control group, version 2 or 1.
int processor_quota() {
  double quota = 0;
  double period = 0;
  std::ifstream v2("/sys/fs/cgroup/cpu.max");  // "max 100000" does not read as a number
  if (!(v2 >> quota >> period)) {
    quota = period = 0;
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> quota;
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? static_cast<int>(std::ceil(quota / period)) : 0;
}
#endif

}  // namespace

int default_thread_count() {
  const int logical = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
#if defined(__linux__)
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return logical;
  std::set<std::string> cores;  // named by the list of processors that share them
  int n_allowed = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    ++n_allowed;
    std::ifstream siblings("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                           "/topology/thread_siblings_list");
    std::string core;
    if (!std::getline(siblings, core)) core = std::to_string(cpu);
    cores.insert(core);
  }
  const int quota = processor_quota();
  const int useful = quota > 0 ? std::min(quota, n_allowed) : n_allowed;
  return std::clamp(static_cast<int>(cores.size()), 1, std::max(1, useful));
#else
  return logical;
#endif
}

}  // namespace prima::compute

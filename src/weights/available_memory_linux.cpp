#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "weights/available_memory.h"

namespace prima::weights {
namespace {

namespace fs = std::filesystem;

std::optional<Bytes> read_number(const fs::path& path) {
  std::ifstream file(path);
  Bytes value = 0;
  if (file >> value) return value;
  return std::nullopt;  // absent, or "max"
}

// "name value" or "Name:   value kB" lines.
std::map<std::string, Bytes> read_table(const fs::path& path) {
  std::map<std::string, Bytes> table;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::string name;
    std::string unit;
    Bytes value = 0;
    if (!(fields >> name >> value)) continue;
    fields >> unit;
    if (name.ends_with(':')) name.pop_back();
    table[name] = unit == "kB" ? value * kKiB : value;
  }
  return table;
}

struct Hierarchy {
  fs::path mount;   // where its root is mounted
  fs::path cgroup;  // of this process, below the mount
  bool v2 = false;
};

// Where the memory controllers are mounted (mountinfo: id, parent, device, root, mount point,
// options, then after " - " the type, source and super options) and which of their groups is ours.
std::vector<Hierarchy> memory_hierarchies(const fs::path& root) {
  std::string path_v1;
  std::string path_v2;
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    if (controllers.find(",memory,") != std::string::npos) path_v1 = line.substr(second + 1);
    if (controllers == ",,") path_v2 = line.substr(second + 1);
  }
  std::vector<Hierarchy> hierarchies;
  std::ifstream mounts(root / "proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    const auto separator = line.find(" - ");
    if (separator == std::string::npos) continue;
    std::istringstream before(line.substr(0, separator));
    std::istringstream after(line.substr(separator + 3));
    std::string id, parent, device, mounted_root, mount_point, type, source, options;
    before >> id >> parent >> device >> mounted_root >> mount_point;
    after >> type >> source >> options;
    const bool v2 = type == "cgroup2";
    const bool v1 = type == "cgroup" && ("," + options + ",").find(",memory,") != std::string::npos;
    std::string path = v2 ? path_v2 : path_v1;
    if ((!v1 && !v2) || path.empty()) continue;
    // In a container the mount may show only a part of the hierarchy: ours begins there.
    if (mounted_root != "/" && path.starts_with(mounted_root)) path.erase(0, mounted_root.size());
    if (path.find("..") != std::string::npos) path.clear();  // outside what we can see
    while (path.starts_with('/')) path.erase(0, 1);
    while (mount_point.starts_with('/')) mount_point.erase(0, 1);
    hierarchies.push_back({root / mount_point, path, v2});
  }
  return hierarchies;
}

void limit_by(const fs::path& group, bool v2, AvailableMemory& memory) {
  std::optional<Bytes> limit = read_number(group / (v2 ? "memory.max" : "memory.limit_in_bytes"));
  if (v2) {
    // Above memory.high a group is slowed down until it is nearly stopped: as good as a limit.
    const auto high = read_number(group / "memory.high");
    if (high && (!limit || *high < *limit)) limit = high;
  }
  constexpr Bytes kUnlimited = Bytes{1} << 60;  // v1 says a huge number where there is none
  if (!limit || *limit >= kUnlimited) return;
  if (memory.limiting_group.empty()) memory.limiting_group = group.string();
  const Bytes used =
      read_number(group / (v2 ? "memory.current" : "memory.usage_in_bytes")).value_or(0);
  auto statistics = read_table(group / "memory.stat");
  const std::string prefix = v2 ? "" : "total_";
  const Bytes file_pages =
      statistics[prefix + "inactive_file"] + statistics[prefix + "active_file"];
  const Bytes fixed = used - std::min(used, file_pages);
  const Bytes available = *limit - std::min(*limit, fixed);
  memory.total = std::min(memory.total, *limit);
  if (available >= memory.available) return;
  memory.available = available;
  memory.limit = group.string();
}

}  // namespace

Result<AvailableMemory> available_memory(const fs::path& root) {
  auto info = read_table(root / "proc/meminfo");
  if (!info.contains("MemTotal")) {
    return fail(ErrorCode::unsupported, "the system does not say how much memory it has",
                "Give --memory");
  }
  AvailableMemory memory;
  memory.total = info["MemTotal"];
  memory.available =
      info.contains("MemAvailable") ? info["MemAvailable"] : info["MemFree"] + info["Cached"];
  memory.limit = "memory";
  for (const Hierarchy& hierarchy : memory_hierarchies(root)) {
    fs::path group = hierarchy.mount / hierarchy.cgroup;
    while (true) {
      limit_by(group, hierarchy.v2, memory);
      if (group == hierarchy.mount || group.native().size() <= hierarchy.mount.native().size()) {
        break;
      }
      group = group.parent_path();
    }
  }
  return memory;
}

Bytes program_memory(const fs::path& root) {
  return read_table(root / "proc/self/status")["VmRSS"];
}

}  // namespace prima::weights

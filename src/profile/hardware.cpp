#include "profile/hardware.h"

#include <array>
#include <fstream>
#include <sstream>
#include <thread>

#include <ggml.h>
#include <sodium.h>

#include "weights/available_memory.h"

namespace prima::profile {
namespace {

namespace fs = std::filesystem;

std::string contents(const fs::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  return text.str();
}

// The processor's name and instructions; its clock changes from moment to moment and is left out.
std::string processor(const fs::path& root) {
  std::ifstream file(root / "proc/cpuinfo");
  std::string text;
  for (std::string line; std::getline(file, line) && !line.empty();) {
    for (const char* field : {"model name", "flags", "Features", "CPU part", "Hardware"}) {
      if (line.starts_with(field)) text += line + "\n";
    }
  }
  return text;
}

// What cgroups (v1 and v2) allow this process of processor and disk, from its own up to the root.
std::string container_limits(const fs::path& root) {
  constexpr std::array kFiles{"cpu.max",     "cpu.cfs_quota_us", "cpu.cfs_period_us",
                              "cpuset.cpus", "io.max",           "blkio.throttle.read_bps_device"};
  std::string text;
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const fs::path mount = root / "sys/fs/cgroup" / controllers.substr(0, controllers.find(','));
    for (fs::path group = line.substr(second + 1); !group.empty(); group = group.parent_path()) {
      for (const char* file : kFiles) {
        const std::string limit = contents(mount / group.relative_path() / file);
        if (!limit.empty()) text += std::string(file) + " " + limit;
      }
      if (group == group.parent_path()) break;
    }
  }
  return text;
}

}  // namespace

std::string hardware_description(int n_threads, const fs::path& root) {
  return processor(root) + container_limits(root) + "cores " +
         std::to_string(std::thread::hardware_concurrency()) + "\nthreads " +
         std::to_string(n_threads) + "\nprima " + PRIMA_VERSION + ", ggml " + ggml_version() + " " +
         ggml_commit() + "\n";
}

std::string hashed(const std::string& text) {
  unsigned char hash[16];
  crypto_generichash(hash, sizeof(hash), reinterpret_cast<const unsigned char*>(text.data()),
                     text.size(), nullptr, 0);
  char hex[2 * sizeof(hash) + 1];
  sodium_bin2hex(hex, sizeof(hex), hash, sizeof(hash));
  return hex;
}

std::string computer_identity(const fs::path& root) {
  const std::string boot = contents(root / "proc/sys/kernel/random/boot_id");
  const auto memory = weights::available_memory(root);
  std::error_code error;
  const fs::path network = fs::read_symlink(root / "proc/self/ns/net", error);
  if (boot.empty() || !memory || error) return "";
  return hashed(boot + network.string() + "\n" + memory->limiting_group);
}

}  // namespace prima::profile

#include <mach/mach.h>
#include <sys/sysctl.h>
#include <unistd.h>

#include "weights/available_memory.h"

namespace prima::weights {

Result<AvailableMemory> available_memory(const std::filesystem::path&) {
  std::uint64_t total = 0;
  std::size_t size = sizeof(total);
  vm_statistics64_data_t statistics{};
  mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
  if (sysctlbyname("hw.memsize", &total, &size, nullptr, 0) != 0 ||
      host_statistics64(mach_host_self(), HOST_VM_INFO64,
                        reinterpret_cast<host_info64_t>(&statistics), &count) != KERN_SUCCESS) {
    return fail(ErrorCode::unsupported, "the system does not say how much memory it has",
                "Give --memory");
  }
  // Free, and what the system takes back without writing: file pages and purgeable memory.
  const Bytes pages =
      Bytes{statistics.free_count} + statistics.external_page_count + statistics.purgeable_count;
  return AvailableMemory{total, pages * static_cast<Bytes>(getpagesize()), "memory"};
}

Bytes program_memory(const std::filesystem::path&) {
  task_vm_info_data_t info{};
  mach_msg_type_number_t count = TASK_VM_INFO_COUNT;
  const bool known = task_info(mach_task_self(), TASK_VM_INFO, reinterpret_cast<task_info_t>(&info),
                               &count) == KERN_SUCCESS;
  return known ? info.phys_footprint : 0;
}

}  // namespace prima::weights

#include <algorithm>
#include <cerrno>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "weights/file_platform.h"

namespace prima::weights::platform {

// macOS has no O_DIRECT: F_NOCACHE turns caching off for a descriptor, and reads of whole pages
// into page-aligned buffers then go straight to the buffer. 16 KiB is the page of Apple's
// processors.
std::optional<DirectOpen> open_direct(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return std::nullopt;
  if (::fcntl(descriptor, F_NOCACHE, 1) != 0 || ::fcntl(descriptor, F_RDAHEAD, 0) != 0) {
    ::close(descriptor);
    return std::nullopt;
  }
  return DirectOpen{descriptor, 16 * kKiB};
}

std::int64_t modified_nanoseconds(const struct stat& status) {
  return static_cast<std::int64_t>(status.st_mtimespec.tv_sec) * 1'000'000'000 +
         status.st_mtimespec.tv_nsec;
}

void forget_cached(int, Bytes, Bytes) {}  // macOS has no such advice for a file

void mark_often_used(std::byte*, Bytes) {}  // it has no lists of such pages to be in

Bytes huge_page_size() { return 0; }

int populate(std::byte*, Bytes) { return ENOSYS; }

std::optional<bool> brings_huge_pages(std::byte*, Bytes) { return false; }

bool is_huge_page(std::byte*) { return false; }

Bytes pages_in_memory(std::byte* pages, Bytes size) {
  const auto page_size = static_cast<Bytes>(::sysconf(_SC_PAGESIZE));
  std::vector<char> in_memory((size + page_size - 1) / page_size);
  if (::mincore(reinterpret_cast<caddr_t>(pages), size, in_memory.data()) != 0) return 0;
  return static_cast<Bytes>(std::count_if(in_memory.begin(), in_memory.end(),
                                          [](char page) { return (page & MINCORE_INCORE) != 0; }));
}

}  // namespace prima::weights::platform

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "weights/direct_file_platform.h"

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

}  // namespace prima::weights::platform

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "weights/file_platform.h"

namespace prima::weights::platform {

namespace {

struct FreeDeleter {
  void operator()(void* memory) const { std::free(memory); }
};

// What the file system says of itself (Linux 6.1 on): 0 if it refuses direct reads, nullopt if it
// does not say. Called through syscall(), because C libraries older than the kernel's headers have
// their own, shorter struct statx.
std::optional<Bytes> stated_alignment(int descriptor) {
#ifdef STATX_DIOALIGN
  struct statx status {};
  if (::syscall(SYS_statx, descriptor, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) != 0 ||
      (status.stx_mask & STATX_DIOALIGN) == 0) {
    return std::nullopt;
  }
  if (status.stx_dio_offset_align == 0) return 0;
  const Bytes alignment = std::max(status.stx_dio_offset_align, status.stx_dio_mem_align);
  return std::has_single_bit(alignment) ? std::optional<Bytes>(alignment) : std::nullopt;
#else
  (void)descriptor;
  return std::nullopt;
#endif
}

bool can_read_at(int descriptor, Bytes alignment) {
  constexpr std::size_t kLargest = 64 * kKiB;
  void* memory = nullptr;
  if (::posix_memalign(&memory, kLargest, 2 * kLargest) != 0) return false;
  std::unique_ptr<void, FreeDeleter> owner(memory);
  // Aligned to `alignment` and to nothing larger, so that the answer is about this alignment.
  auto* buffer = static_cast<char*>(memory) + alignment;
  return ::pread(descriptor, buffer, alignment, 0) >= 0;
}

}  // namespace

std::optional<DirectOpen> open_direct(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
  if (descriptor < 0) return std::nullopt;
  // Smaller than a page is allowed by some, but reads of whole pages never cost more.
  constexpr Bytes kPage = 4096;
  if (const auto stated = stated_alignment(descriptor)) {
    if (*stated > 0 && can_read_at(descriptor, std::max(*stated, kPage))) {
      return DirectOpen{descriptor, std::max(*stated, kPage)};
    }
  } else {
    for (const Bytes alignment : {kPage, 16 * kKiB, 64 * kKiB}) {
      if (can_read_at(descriptor, alignment)) return DirectOpen{descriptor, alignment};
    }
  }
  ::close(descriptor);
  return std::nullopt;
}

std::int64_t modified_nanoseconds(const struct stat& status) {
  return static_cast<std::int64_t>(status.st_mtim.tv_sec) * 1'000'000'000 + status.st_mtim.tv_nsec;
}

Bytes huge_page_size() {
  static const Bytes size = [] {
    std::ifstream file("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size");
    Bytes value = 0;
    return file >> value ? value : 0;
  }();
  return size;
}

void forget_cached(int descriptor, Bytes offset, Bytes size) {
  (void)::posix_fadvise(descriptor, static_cast<off_t>(offset), static_cast<off_t>(size),
                        POSIX_FADV_DONTNEED);
}

#ifdef MADV_POPULATE_READ
namespace {

// 0 or an error number; ENOSYS where the system does not know how.
int populate_at_once(std::byte* pages, Bytes size) {
  int result = 0;
  do {
    result = ::madvise(pages, size, MADV_POPULATE_READ);
  } while (result != 0 && errno == EINTR);
  // Linux before 5.14 does not know it; on a bad disk or a shorter file it says EFAULT.
  if (result == 0) return 0;
  return errno == EINVAL ? ENOSYS : EIO;
}

// The kernel queues what it is advised of and returns; so one window is being read while the one
// before is waited for. Windows, because what is read ahead and not yet mapped may be taken back.
// Of one piece of advice it follows no more than the device's read-ahead size, 128 KiB by
// default; the rest would be faulted in, with read-ahead beyond what was asked for.
int populate_small_pages(std::byte* pages, Bytes size) {
  constexpr Bytes kWindow = 32 * kMiB;
  constexpr Bytes kAdvice = 128 * kKiB;
  const auto window = [&](Bytes begin) { return std::min(kWindow, size - begin); };
  const auto advise = [&](Bytes begin) {
    const Bytes end = begin + window(begin);
    for (Bytes at = begin; at < end; at += kAdvice) {
      (void)::madvise(pages + at, std::min(kAdvice, end - at), MADV_WILLNEED);
    }
  };
  if (size > 0) advise(0);
  for (Bytes begin = 0; begin < size; begin += kWindow) {
    const Bytes next = begin + kWindow;
    if (next < size) advise(next);
    if (const int error = populate_at_once(pages + begin, window(begin)); error != 0) return error;
  }
  return 0;
}

bool prefer_huge_pages(std::byte* pages, Bytes size) {
  return ::madvise(pages, size, MADV_HUGEPAGE) == 0 && ::madvise(pages, size, MADV_RANDOM) == 0;
}

// Each is one read of its own size: said to be used at random, nothing is read ahead beyond it. So
// several threads, for the disk's queue.
int populate_huge_pages(std::byte* pages, Bytes size) {
  constexpr std::size_t kReaders = 4;
  std::atomic<Bytes> next{0};
  std::atomic<int> error{0};
  const auto read = [&] {
    while (error == 0) {
      const Bytes at = next.fetch_add(huge_page_size());
      if (at >= size) return;
      if (const int found = populate_at_once(pages + at, huge_page_size()); found != 0)
        error = found;
    }
  };
  std::vector<std::jthread> readers;
  while (readers.size() + 1 < std::min<Bytes>(kReaders, size / huge_page_size())) {
    readers.emplace_back(read);
  }
  read();
  readers.clear();
  return error;
}

}  // namespace
#endif

// Huge pages as far as they lie within: a token reads all weights from end to end, and looking up
// addresses of small pages took 5 to 9 % of its time. No page holds anything else, so what is
// counted is what is taken.
int populate(std::byte* pages, Bytes size) {
#ifdef MADV_POPULATE_READ
  const auto begin = reinterpret_cast<std::uintptr_t>(pages);
  const Bytes huge = huge_page_size();
  const Bytes first = huge > 0 ? align_up(begin, huge) : 0;
  const Bytes last = huge > 0 ? align_down(begin + size, huge) : 0;
  if (first >= last) return populate_small_pages(pages, size);
  std::byte* const inside = pages + (first - begin);
  if (!prefer_huge_pages(inside, last - first)) return populate_small_pages(pages, size);
  int error = populate_small_pages(pages, first - begin);
  if (error == 0) error = populate_huge_pages(inside, last - first);
  if (error == 0) error = populate_small_pages(inside + (last - first), begin + size - last);
  return error;
#else
  (void)pages;
  (void)size;
  return ENOSYS;
#endif
}

// What is unmapped after use counts as used, unless it is said to be used at random; used twice, as
// used often ("active"). Reading it twice would do, too, but reads ahead of what was asked for.
void mark_often_used(std::byte* pages, Bytes size) {
#ifdef MADV_POPULATE_READ
  for (int use = 0; use < 2; ++use) {
    if (::madvise(pages, size, MADV_NORMAL) != 0) return;
    if (::madvise(pages, size, MADV_DONTNEED) != 0 || populate(pages, size) != 0) break;
  }
  (void)::madvise(pages, size, MADV_NORMAL);
#else
  (void)pages;
  (void)size;
#endif
}

// Where reading ahead is off, one page brings its neighbours only as part of a huge one.
std::optional<bool> brings_huge_pages(std::byte* pages, Bytes size) {
#ifdef MADV_POPULATE_READ
  const auto begin = reinterpret_cast<std::uintptr_t>(pages);
  const Bytes huge = huge_page_size();
  if (huge == 0) return false;
  const Bytes first = align_up(begin, huge);
  if (first + huge > begin + size) return std::nullopt;
  std::byte* const inside = pages + (first - begin);
  if (pages_in_memory(inside, huge) > 0) return std::nullopt;
  if (!prefer_huge_pages(inside, huge) || populate_at_once(inside, 1) != 0) return false;
  return pages_in_memory(inside, huge) * static_cast<Bytes>(::sysconf(_SC_PAGESIZE)) == huge;
#else
  (void)pages;
  (void)size;
  return false;
#endif
}

// Mapped anew, a huge page is one fault; of small ones a fault maps a few.
bool is_huge_page(std::byte* pages) {
#ifdef MADV_POPULATE_READ
  const Bytes huge = huge_page_size();
  if (huge == 0 || !prefer_huge_pages(pages, huge)) return false;
  if (::madvise(pages, huge, MADV_DONTNEED) != 0) return false;
  rusage before = {};
  rusage after = {};
  if (::getrusage(RUSAGE_THREAD, &before) != 0) return false;
  if (populate_at_once(pages, huge) != 0) return false;
  if (::getrusage(RUSAGE_THREAD, &after) != 0) return false;
  return after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt <= 2;
#else
  (void)pages;
  return false;
#endif
}

Bytes pages_in_memory(std::byte* pages, Bytes size) {
  const auto page_size = static_cast<Bytes>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> in_memory((size + page_size - 1) / page_size);
  if (::mincore(pages, size, in_memory.data()) != 0) return 0;
  return static_cast<Bytes>(std::count_if(in_memory.begin(), in_memory.end(),
                                          [](unsigned char page) { return (page & 1) != 0; }));
}

}  // namespace prima::weights::platform

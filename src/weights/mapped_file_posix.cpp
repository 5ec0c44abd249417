#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "weights/file_platform.h"
#include "weights/mapped_file.h"

namespace prima::weights {
namespace {

// Large enough that the disk, not the system call, decides.
constexpr Bytes kReadSize = 4 * kMiB;

tl::unexpected<Error> system_error(const std::filesystem::path& path, const char* action) {
  return fail(ErrorCode::io, path.string() + ": cannot " + action + ": " + std::strerror(errno));
}

Bytes page_size() {
  static const auto size = static_cast<Bytes>(::sysconf(_SC_PAGESIZE));
  return size;
}

ByteRange pages_around(ByteRange range, Bytes file_size) {
  const Bytes begin = align_down(range.offset, page_size());
  return {begin, std::min(align_up(range.end(), page_size()), file_size) - begin};
}

}  // namespace

Result<std::unique_ptr<MappedFile>> MappedFile::open(const std::filesystem::path& path) {
  std::unique_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  file->descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file->descriptor_ < 0) return system_error(path, "open");
  struct stat status = {};
  if (::fstat(file->descriptor_, &status) != 0) return system_error(path, "ask for the size");
  file->size_ = static_cast<Bytes>(status.st_size);
  file->modified_nanoseconds_ = platform::modified_nanoseconds(status);
  void* data = ::mmap(nullptr, file->size_, PROT_READ, MAP_SHARED, file->descriptor_, 0);
  if (data == MAP_FAILED) return system_error(path, "map");
  file->data_ = static_cast<std::byte*>(data);
  return file;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

Status MappedFile::fetch(ByteRange range) const {
  const ByteRange pages = pages_around(range, size_);
  const int error = platform::populate(data_ + pages.offset, pages.size);
  if (error == 0) return {};
  if (error != ENOSYS) {
    errno = error;
    return system_error(path_, "bring weights into memory");
  }
  // Reading through a buffer costs a copy, but reads are large and the pages stay clean.
  std::vector<std::byte> scratch(std::min(range.size, kReadSize));
  for (Bytes done = 0; done < range.size; done += scratch.size()) {
    const Bytes size = std::min<Bytes>(scratch.size(), range.size - done);
    PRIMA_RETURN_IF_ERROR(read({range.offset + done, size}, scratch.data()));
  }
  return {};
}

ByteRange MappedFile::grown_to_huge_pages(ByteRange range, ByteRange within) const {
  const Bytes huge = platform::huge_page_size();
  if (huge == 0) return range;
  const auto address = reinterpret_cast<std::uintptr_t>(data_);
  const Bytes begin = align_down(address + range.offset, huge);
  const Bytes end = align_up(address + range.end(), huge) - address;
  const Bytes grown = std::max(within.offset, begin > address ? begin - address : 0);
  return {grown, std::min(within.end(), end) - grown};
}

void MappedFile::make_way_for_huge_pages(ByteRange range) const {
  const Bytes huge = platform::huge_page_size();
  if (huge == 0) return;
  const auto address = reinterpret_cast<std::uintptr_t>(data_);
  const Bytes first = align_up(address + range.offset, huge) - address;
  for (Bytes at = first; at + huge <= range.end(); at += huge) {
    const ByteRange page{at, huge};
    const Bytes in_memory = bytes_in_memory(page);
    if (in_memory == 0) continue;
    if (in_memory == huge && (small_pages_stay_ || platform::is_huge_page(data_ + at))) continue;
    drop(page);
    if (in_memory < huge || huge_pages_come_) continue;
    if (bytes_in_memory(page) > 0) continue;  // others hold it, or it is not written yet
    huge_pages_come_ = fetch(page) && platform::is_huge_page(data_ + at);
    small_pages_stay_ = !huge_pages_come_;
  }
}

void MappedFile::keep(ByteRange range) const {
  const ByteRange pages = pages_around(range, size_);
  platform::mark_often_used(data_ + pages.offset, pages.size);
}

Bytes MappedFile::bytes_missing(ByteRange range) const {
  const Bytes size = pages_around(range, size_).size;
  return size - std::min(size, bytes_in_memory(range));
}

Bytes MappedFile::bytes_in_memory(ByteRange range) const {
  const ByteRange pages = pages_around(range, size_);
  return platform::pages_in_memory(data_ + pages.offset, pages.size) * page_size();
}

std::optional<bool> MappedFile::brings_huge_pages(ByteRange range) const {
  drop(range);
  const auto answer = platform::brings_huge_pages(data_ + range.offset, range.size);
  if (answer) drop(range);
  return answer;
}

void MappedFile::drop(ByteRange range) const {
  const Bytes begin = align_up(range.offset, page_size());
  const Bytes end = range.end() == size_ ? size_ : align_down(range.end(), page_size());
  if (end <= begin) return;
  (void)::madvise(data_ + begin, end - begin, MADV_DONTNEED);
  platform::forget_cached(descriptor_, begin, end - begin);
}

void MappedFile::drop_around(ByteRange range) const { drop(pages_around(range, size_)); }

Status MappedFile::check_unchanged() const {
  struct stat status = {};
  if (::fstat(descriptor_, &status) != 0) return system_error(path_, "ask for the size");
  if (static_cast<Bytes>(status.st_size) == size_ &&
      platform::modified_nanoseconds(status) == modified_nanoseconds_) {
    return {};
  }
  return fail(ErrorCode::unavailable, path_.string() + ": changed while it was in use",
              "Put the model file back and start again");
}

void MappedFile::expect_random_access(ByteRange range) const {
  const ByteRange pages = pages_around(range, size_);
  (void)::madvise(data_ + pages.offset, pages.size, MADV_RANDOM);
}

Status MappedFile::read(ByteRange range, std::byte* out) const {
  for (Bytes done = 0; done < range.size;) {
    const Bytes size = std::min(kReadSize, range.size - done);
    const ssize_t got =
        ::pread(descriptor_, out + done, size, static_cast<off_t>(range.offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error(path_, "read");
    if (got == 0) {
      return fail(ErrorCode::unavailable, path_.string() + " became shorter while it was in use",
                  "Restore the file and start again");
    }
    done += static_cast<Bytes>(got);
  }
  return {};
}

}  // namespace prima::weights

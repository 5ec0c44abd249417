#include "model/atomic_file.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <spdlog/fmt/fmt.h>
#include <unistd.h>

namespace prima::model {
namespace {

tl::unexpected<Error> io_error(const std::filesystem::path& path, std::string_view doing) {
  const int number = errno;
  return fail(number == ENOSPC || number == EDQUOT ? ErrorCode::resource_exhausted : ErrorCode::io,
              fmt::format("{}: {}: {}", path.string(), doing, std::strerror(number)),
              "Check the folder, its permissions and the space on its disk");
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  const std::filesystem::path folder = path.parent_path();
  return folder.empty() ? std::filesystem::path(".") : folder;
}

// Unlike that of any other file being written.
std::string temporary_name(const std::filesystem::path& path) {
  static std::atomic<unsigned> count = 0;
  return fmt::format(".{}.{}-{}.part", path.filename().string(), getpid(), count++);
}

Status check_place(const std::filesystem::path& path, Bytes size) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return fail(ErrorCode::invalid_argument, fmt::format("{}: is a directory", path.string()),
                "Give a file name inside it");
  }
  const std::filesystem::path folder = folder_of(path);
  const auto space = std::filesystem::space(folder, error);
  if (error) {
    return fail(ErrorCode::not_found, fmt::format("{}: {}", folder.string(), error.message()),
                "Make the folder first, or choose another");
  }
  if (space.available < size) {
    return fail(
        ErrorCode::resource_exhausted,
        fmt::format("{}: the file takes {}, but the disk has only {} left", path.string(),
                    format_bytes(size), format_bytes(space.available)),
        fmt::format("Free {}, or choose another disk", format_bytes(size - space.available)));
  }
  return {};
}

}  // namespace

Result<AtomicFile> AtomicFile::create(const std::filesystem::path& path, Bytes size) {
  PRIMA_RETURN_IF_ERROR(check_place(path, size));
  AtomicFile file;
  file.path_ = path;
  file.temporary_ = folder_of(path) / temporary_name(path);
  file.descriptor_ =
      ::open(file.temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
  if (file.descriptor_ < 0) return io_error(path, "cannot be written");
  return file;
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      written_(other.written_) {}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  close(descriptor_);
  unlink(temporary_.c_str());
}

Status AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
    if (count < 0) {
      if (errno == EINTR) continue;
      return io_error(path_, "writing failed");
    }
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    written_ += static_cast<Bytes>(count);
  }
  return {};
}

Status AtomicFile::flush() {
  if (fsync(descriptor_) != 0) return io_error(path_, "writing failed");
#ifdef POSIX_FADV_DONTNEED  // macOS keeps no more than it has room for
  (void)posix_fadvise(descriptor_, 0, 0, POSIX_FADV_DONTNEED);
#endif
  return {};
}

Status AtomicFile::commit() {
  if (fsync(descriptor_) != 0) return io_error(path_, "writing failed");
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return io_error(path_, "renaming failed");
  close(std::exchange(descriptor_, -1));
  // The rename itself lasts only once the folder is on disk.
  const int folder = ::open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY);
  if (folder >= 0) {
    fsync(folder);
    close(folder);
  }
  return {};
}

}  // namespace prima::model

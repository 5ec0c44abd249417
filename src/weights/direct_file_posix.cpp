#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "weights/direct_file.h"
#include "weights/file_platform.h"

namespace prima::weights {

namespace {

Error system_error(const std::filesystem::path& path, const char* doing, int error) {
  const ErrorCode code = error == ENOENT ? ErrorCode::not_found : ErrorCode::io;
  return Error{code, path.string() + ": " + doing + ": " + std::strerror(error),
               "Check that the file exists and can be read"};
}

}  // namespace

Result<DirectFile> DirectFile::open(const std::filesystem::path& path, Mode mode) {
  DirectFile file;
  file.path_ = path;
  std::optional<platform::DirectOpen> direct;
  if (mode == Mode::direct_if_possible) direct = platform::open_direct(path);
  if (direct) {
    file.native_ = direct->descriptor;
    file.alignment_ = direct->alignment;
    file.is_direct_ = true;
  } else {
    file.native_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file.native_ < 0) return tl::unexpected(system_error(path, "open", errno));
  }
  struct stat status {};
  if (::fstat(static_cast<int>(file.native_), &status) != 0) {
    return tl::unexpected(system_error(path, "stat", errno));
  }
  if (!S_ISREG(status.st_mode)) {
    return fail(ErrorCode::invalid_argument, path.string() + ": not a regular file");
  }
  file.size_ = static_cast<Bytes>(status.st_size);
  file.modified_nanoseconds_ = platform::modified_nanoseconds(status);
  return file;
}

DirectFile::~DirectFile() {
  if (native_ >= 0) ::close(static_cast<int>(native_));
}

DirectFile::DirectFile(DirectFile&& other) noexcept
    : native_(std::exchange(other.native_, -1)),
      path_(std::move(other.path_)),
      size_(other.size_),
      modified_nanoseconds_(other.modified_nanoseconds_),
      alignment_(other.alignment_),
      is_direct_(other.is_direct_) {}

DirectFile& DirectFile::operator=(DirectFile&& other) noexcept {
  std::swap(native_, other.native_);
  std::swap(path_, other.path_);
  std::swap(size_, other.size_);
  std::swap(modified_nanoseconds_, other.modified_nanoseconds_);
  std::swap(alignment_, other.alignment_);
  std::swap(is_direct_, other.is_direct_);
  return *this;
}

Status DirectFile::check_unchanged() const {
  struct stat status {};
  if (::fstat(static_cast<int>(native_), &status) != 0) {
    return tl::unexpected(system_error(path_, "stat", errno));
  }
  if (static_cast<Bytes>(status.st_size) != size_ ||
      platform::modified_nanoseconds(status) != modified_nanoseconds_) {
    return fail(ErrorCode::unavailable, path_.string() + ": changed while it was in use",
                "Put the model file back and start again");
  }
  return {};
}

void DirectFile::forget_cached(Bytes offset, Bytes size) const {
  if (!is_direct_) platform::forget_cached(static_cast<int>(native_), offset, size);
}

}  // namespace prima::weights

#include "cli/atomic_file.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <system_error>

#include <sys/stat.h>
#include <unistd.h>

namespace prima::cli {

namespace fs = std::filesystem;

namespace {

tl::unexpected<Error> cannot_write(const fs::path& path, const std::string& reason) {
  return fail(ErrorCode::io, path.string() + " cannot be written: " + reason,
              "Give a file name in a folder that exists and that you may write to");
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

bool is_special(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  return !error && fs::exists(status) && !fs::is_regular_file(status);
}

Status write_all(int descriptor, std::string_view content) {
  while (!content.empty()) {
    const ssize_t n = ::write(descriptor, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(ErrorCode::io, std::strerror(errno));
    content.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

}  // namespace

Status check_writable(const fs::path& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) return cannot_write(path, "it is a directory");
  const fs::path place = is_special(path) ? path : folder_of(path);
  if (::access(place.c_str(), W_OK) != 0) return cannot_write(path, std::strerror(errno));
  return {};
}

Status write_atomically(const fs::path& path, std::string_view content) {
  if (is_special(path)) {
    std::ofstream out(path, std::ios::binary);
    out.write(content.data(), static_cast<std::streamsize>(content.size())).flush();
    if (!out) return cannot_write(path, std::strerror(errno));
    return {};
  }
  std::string temporary = (folder_of(path) / (path.filename().string() + ".XXXXXX")).string();
  const int descriptor = ::mkstemp(temporary.data());
  if (descriptor < 0) return cannot_write(path, std::strerror(errno));
  // mkstemp's files are the user's alone; this one is to be as any other.
  const mode_t mask = ::umask(0);
  ::umask(mask);
  Status written = write_all(descriptor, content);
  if (written && ::fchmod(descriptor, 0666 & ~mask) != 0) {
    written = fail(ErrorCode::io, std::strerror(errno));
  }
  if (written && ::fsync(descriptor) != 0) written = fail(ErrorCode::io, std::strerror(errno));
  ::close(descriptor);
  if (written && ::rename(temporary.c_str(), path.c_str()) != 0) {
    written = fail(ErrorCode::io, std::strerror(errno));
  }
  if (!written) {
    ::unlink(temporary.c_str());
    return cannot_write(path, written.error().what);
  }
  return {};
}

}  // namespace prima::cli

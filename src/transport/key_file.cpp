// The part of cluster_key.h that deals with files; POSIX.
//
// The file holds two lines, the code and the stretched key in hexadecimal, so that starting a
// process does not pay for Argon2id again. Whoever can read the one can compute the other.
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>

#include <fcntl.h>
#include <sodium.h>
#include <sys/stat.h>
#include <unistd.h>

#include "transport/cluster_key.h"

namespace prima::transport {
namespace {

namespace fs = std::filesystem;

tl::unexpected<Error> key_file_error(const fs::path& path, const char* what) {
  return fail(ErrorCode::io, path.string() + ": " + what + ": " + std::strerror(errno),
              "Check that the folder exists and is yours to write");
}

std::string to_text(const ClusterKey& key) {
  std::string hex(2 * key.stretched.size() + 1, '\0');
  sodium_bin2hex(hex.data(), hex.size(), key.stretched.data(), key.stretched.size());
  hex.pop_back();
  return format_code(key.code) + "\n" + hex + "\n";
}

// A file beside `path` that only its owner may read, complete and on disk.
Result<fs::path> write_beside(const fs::path& path, const std::string& text) {
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  std::string temporary = path.string() + ".XXXXXX";
  const int file = ::mkstemp(temporary.data());  // mode 0600
  if (file < 0) return key_file_error(path, "can't be written");
  const bool written =
      ::write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
      ::fsync(file) == 0;
  const int write_error = errno;
  ::close(file);
  if (!written) {
    ::unlink(temporary.c_str());
    errno = write_error;
    return key_file_error(path, "can't be written");
  }
  return fs::path(temporary);
}

Result<std::optional<ClusterKey>> load_key(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return std::optional<ClusterKey>();
    return key_file_error(path, "can't be read");
  }
  if ((status.st_mode & 077) != 0) {
    return fail(ErrorCode::invalid_argument,
                path.string() + ": other users may read this cluster key",
                "Run `chmod 600 " + path.string() + "`, or `prima key --new` if they may have");
  }
  std::ifstream file(path);
  std::string code_line;
  std::string hex;
  if (!std::getline(file, code_line) || !std::getline(file, hex)) {
    return fail(ErrorCode::corrupt, path.string() + ": this is not a cluster key",
                "Remove the file, or make a new key with `prima key --new`");
  }
  ClusterKey key;
  auto code = parse_code(code_line);
  std::size_t size = 0;
  if (!code ||
      sodium_hex2bin(key.stretched.data(), key.stretched.size(), hex.data(), hex.size(), nullptr,
                     &size, nullptr) != 0 ||
      size != key.stretched.size()) {
    return fail(ErrorCode::corrupt, path.string() + ": this is not a cluster key",
                "Remove the file, or make a new key with `prima key --new`");
  }
  key.code = std::move(*code);
  return std::optional(std::move(key));
}

}  // namespace

Result<ClusterKey> load_or_create_key(const fs::path& path) {
  PRIMA_ASSIGN_OR_RETURN(auto present, load_key(path));
  if (present) return std::move(*present);

  PRIMA_ASSIGN_OR_RETURN(const ClusterKey made, stretch(make_code()));
  PRIMA_ASSIGN_OR_RETURN(const fs::path temporary, write_beside(path, to_text(made)));
  // link() fails if another process was first; then its key counts.
  const bool linked = ::link(temporary.c_str(), path.c_str()) == 0;
  const int link_error = errno;
  ::unlink(temporary.c_str());
  if (!linked && link_error != EEXIST) {
    errno = link_error;
    return key_file_error(path, "can't be written");
  }
  PRIMA_ASSIGN_OR_RETURN(auto stored, load_key(path));
  if (!stored)
    return fail(ErrorCode::io, path.string() + ": vanished while it was made", "Try again");
  return std::move(*stored);
}

Status store_key(const fs::path& path, const ClusterKey& key) {
  PRIMA_ASSIGN_OR_RETURN(const fs::path temporary, write_beside(path, to_text(key)));
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    const int rename_error = errno;
    ::unlink(temporary.c_str());
    errno = rename_error;
    return key_file_error(path, "can't be replaced");
  }
  return {};
}

}  // namespace prima::transport

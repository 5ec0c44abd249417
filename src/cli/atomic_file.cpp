#include "cli/atomic_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <span>
#include <string>
#include <system_error>

#include <unistd.h>

#include "model/atomic_file.h"

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
  PRIMA_ASSIGN_OR_RETURN(auto file, model::AtomicFile::create(path, content.size()));
  PRIMA_RETURN_IF_ERROR(file.write(std::as_bytes(std::span(content))));
  return file.commit();
}

}  // namespace prima::cli

#include "cli/text_file.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include "base/units.h"

namespace prima::cli {

namespace {

// No context holds more; a file beyond this is a mistake.
constexpr Bytes kMaxTextBytes = 256 * kMiB;

Result<std::string> read_all(std::FILE* file, const std::string& name) {
  std::string text;
  std::array<char, 64 * kKiB> buffer;
  for (;;) {
    const std::size_t n = std::fread(buffer.data(), 1, buffer.size(), file);
    text.append(buffer.data(), n);
    if (text.size() > kMaxTextBytes) {
      return fail(ErrorCode::invalid_argument,
                  name + " is longer than " + format_bytes(kMaxTextBytes), "Give a text");
    }
    if (n < buffer.size()) break;
  }
  if (std::ferror(file) != 0) {
    return fail(ErrorCode::io, name + " cannot be read: " + std::strerror(errno));
  }
  return text;
}

}  // namespace

Result<std::string> read_text_file(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    return fail(ErrorCode::invalid_argument, path.string() + " is a directory",
                "Give a file that holds a text");
  }
  const auto close = [](std::FILE* file) { std::fclose(file); };
  const std::unique_ptr<std::FILE, decltype(close)> file(std::fopen(path.c_str(), "rb"), close);
  if (!file) {
    return fail(errno == ENOENT ? ErrorCode::not_found : ErrorCode::io,
                path.string() + " cannot be opened: " + std::strerror(errno),
                "Check the name of the file");
  }
  return read_all(file.get(), path.string());
}

Result<std::string> read_standard_input() { return read_all(stdin, "standard input"); }

}  // namespace prima::cli

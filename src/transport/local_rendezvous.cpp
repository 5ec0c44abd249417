#include "transport/local_rendezvous.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace prima::transport {
namespace {

namespace fs = std::filesystem;

std::string prefix(HeadState state) { return state == HeadState::gathering ? "head-" : "ring-"; }

tl::unexpected<Error> rendezvous_error(const fs::path& path, const char* what) {
  return fail(ErrorCode::io, path.string() + ": " + what + ": " + std::strerror(errno),
              "Check that the folder is yours to write, or set XDG_RUNTIME_DIR to one that is");
}

class OpenFile {
 public:
  explicit OpenFile(int descriptor) : descriptor_(descriptor) {}
  ~OpenFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  int get() const { return descriptor_; }

 private:
  const int descriptor_;
};

class LocalAnnouncement {
 public:
  LocalAnnouncement(fs::path path, int descriptor) : path_(std::move(path)), file_(descriptor) {}
  ~LocalAnnouncement() { ::unlink(path_.c_str()); }
  LocalAnnouncement(const LocalAnnouncement&) = delete;
  LocalAnnouncement& operator=(const LocalAnnouncement&) = delete;

 private:
  const fs::path path_;
  const OpenFile file_;  // holds the lock
};

}  // namespace

Result<fs::path> runtime_folder() {
  fs::path folder;
  if (const char* runtime = std::getenv("XDG_RUNTIME_DIR"); runtime && *runtime) {
    folder = fs::path(runtime) / "prima";
  } else {
    folder = fs::temp_directory_path() / ("prima-" + std::to_string(::getuid()));
  }
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return rendezvous_error(folder, "can't be made");
  }
  struct stat status {};
  if (::lstat(folder.c_str(), &status) != 0) return rendezvous_error(folder, "can't be read");
  if (!S_ISDIR(status.st_mode) || status.st_uid != ::getuid() || (status.st_mode & 022) != 0) {
    return fail(ErrorCode::invalid_argument, folder.string() + ": other users may write here",
                "Remove it, or set XDG_RUNTIME_DIR to a folder of your own");
  }
  return folder;
}

Result<std::shared_ptr<void>> announce_locally(const fs::path& folder, std::uint16_t port,
                                               HeadState state) {
  // Locked before it gets the name by which it is found. No other head ever has that name, or
  // whoever removes the file of a dead head might remove that of one that came after.
  const std::string port_text = std::to_string(port);
  std::string temporary = (folder / ("new-" + port_text + "-XXXXXX")).string();
  const int file = ::mkostemp(temporary.data(), O_CLOEXEC);  // mode 0600
  if (file < 0) return rendezvous_error(folder, "can't be written");
  const std::string unique = temporary.substr(temporary.size() - 6);
  const fs::path path = folder / (prefix(state) + port_text + "-" + unique);
  const std::string text = port_text + "\n";
  if (::flock(file, LOCK_EX | LOCK_NB) != 0 ||
      ::write(file, text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
      ::rename(temporary.c_str(), path.c_str()) != 0) {
    const auto error = rendezvous_error(path, "can't be written");
    ::close(file);
    ::unlink(temporary.c_str());
    return error;
  }
  return std::make_shared<LocalAnnouncement>(path, file);
}

std::vector<Endpoint> find_local_heads(const fs::path& folder, HeadState state) {
  std::vector<std::pair<fs::file_time_type, Endpoint>> found;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix(state))) continue;
    const OpenFile file(::open(entry.path().c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (file.get() < 0) continue;
    if (::flock(file.get(), LOCK_SH | LOCK_NB) == 0) {  // its head is dead
      ::unlink(entry.path().c_str());
      continue;
    }
    std::uint16_t port = 0;
    const char* const digits = name.data() + prefix(state).size();
    std::from_chars(digits, name.data() + name.size(), port);
    if (port == 0) continue;
    found.emplace_back(entry.last_write_time(error), Endpoint{"127.0.0.1", port});
  }
  std::ranges::sort(found);
  std::vector<Endpoint> heads;
  for (auto& [written, endpoint] : found) heads.push_back(std::move(endpoint));
  return heads;
}

}  // namespace prima::transport

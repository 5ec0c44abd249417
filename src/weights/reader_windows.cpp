// Reads on Windows: overlapped and unbuffered, completed through an I/O completion port. DirectFile
// too, for the platform's handles are not POSIX's.
//
// Compiled on Windows only; not tested by the project's own machines yet.
#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
// winioctl.h needs windows.h before it.
#include <algorithm>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>

#include <winioctl.h>

#include "weights/direct_file.h"
#include "weights/reader.h"

namespace prima::weights {
namespace {

const std::intptr_t kNoFile = reinterpret_cast<std::intptr_t>(INVALID_HANDLE_VALUE);

HANDLE handle_of(std::intptr_t native) { return reinterpret_cast<HANDLE>(native); }

Error windows_error(const std::filesystem::path& path, const std::string& doing, DWORD code) {
  const bool missing = code == ERROR_FILE_NOT_FOUND || code == ERROR_PATH_NOT_FOUND;
  return Error{
      missing ? ErrorCode::not_found : ErrorCode::io,
      path.string() + ": " + doing + ": " + std::system_category().message(static_cast<int>(code)),
      "Check the file, its disk and its permissions"};
}

// Unbuffered reads must be multiples of the disk's physical sector, which the volume says.
Bytes sector_size(HANDLE file) {
  FILE_STORAGE_INFO info{};
  if (!GetFileInformationByHandleEx(file, FileStorageInfo, &info, sizeof(info))) return 4096;
  return std::max<Bytes>(info.PhysicalBytesPerSectorForAtomicity, 4096);
}

struct FileState {
  Bytes size = 0;
  std::int64_t modified = 0;  // in units of 100 ns
};

std::optional<FileState> state_of(HANDLE file) {
  FILE_STANDARD_INFO standard{};
  FILE_BASIC_INFO basic{};
  if (!GetFileInformationByHandleEx(file, FileStandardInfo, &standard, sizeof(standard)) ||
      !GetFileInformationByHandleEx(file, FileBasicInfo, &basic, sizeof(basic))) {
    return std::nullopt;
  }
  return FileState{static_cast<Bytes>(standard.EndOfFile.QuadPart), basic.LastWriteTime.QuadPart};
}

}  // namespace

Result<DirectFile> DirectFile::open(const std::filesystem::path& path, Mode mode) {
  DirectFile file;
  file.native_ = kNoFile;
  file.path_ = path;
  const auto open_with = [&](DWORD flags) {
    return CreateFileW(path.c_str(), GENERIC_READ,
                       FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, nullptr,
                       OPEN_EXISTING, FILE_FLAG_OVERLAPPED | flags, nullptr);
  };
  HANDLE handle = INVALID_HANDLE_VALUE;
  if (mode == Mode::direct_if_possible) handle = open_with(FILE_FLAG_NO_BUFFERING);
  file.is_direct_ = handle != INVALID_HANDLE_VALUE;
  if (!file.is_direct_) handle = open_with(0);
  if (handle == INVALID_HANDLE_VALUE) {
    return tl::unexpected(windows_error(path, "open", GetLastError()));
  }
  file.native_ = reinterpret_cast<std::intptr_t>(handle);
  file.alignment_ = sector_size(handle);
  const auto state = state_of(handle);
  if (!state) return tl::unexpected(windows_error(path, "ask for the size", GetLastError()));
  file.size_ = state->size;
  file.modified_nanoseconds_ = state->modified * 100;
  return file;
}

DirectFile::~DirectFile() {
  if (native_ != kNoFile) CloseHandle(handle_of(native_));
}

DirectFile::DirectFile(DirectFile&& other) noexcept
    : native_(std::exchange(other.native_, kNoFile)),
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
  const auto state = state_of(handle_of(native_));
  if (!state) return tl::unexpected(windows_error(path_, "ask for the size", GetLastError()));
  if (state->size != size_ || state->modified * 100 != modified_nanoseconds_) {
    return fail(ErrorCode::unavailable, path_.string() + ": changed while it was in use",
                "Put the model file back and start again");
  }
  return {};
}

void DirectFile::forget_cached(Bytes, Bytes) const {}  // Windows has no such advice

namespace {

class OverlappedReader final : public Reader {
 public:
  OverlappedReader(std::vector<DirectFile> files, std::size_t queue_depth, HANDLE port)
      : files_(std::move(files)), in_flight_(queue_depth), port_(port) {
    for (const DirectFile& file : files_) {
      alignment_ = std::max(alignment_, file.alignment());
      is_direct_ = is_direct_ && file.is_direct();
    }
    for (std::size_t i = 0; i < queue_depth; ++i) free_.push_back(i);
  }

  ~OverlappedReader() override {
    for (const DirectFile& file : files_) CancelIoEx(handle_of(file.native()), nullptr);
    constexpr int kPatienceSeconds = 30;
    for (int i = 0; i < kPatienceSeconds && free_.size() < in_flight_.size(); ++i) {
      std::vector<ReadCompletion> ignored;
      wait(std::chrono::seconds(1), ignored);
    }
    CloseHandle(port_);
  }

  std::string description() const override {
    return is_direct_ ? "overlapped, direct" : "overlapped, through the page cache";
  }
  bool is_direct() const override { return is_direct_; }
  Bytes alignment() const override { return alignment_; }
  std::size_t queue_depth() const override { return in_flight_.size(); }

  void submit(const ReadRequest& request) override {
    const std::size_t index = free_.back();
    free_.pop_back();
    in_flight_[index].request = request;
    in_flight_[index].done = 0;
    start(index);
  }

  void wait(Duration timeout, std::vector<ReadCompletion>& completions) override {
    std::move(failed_.begin(), failed_.end(), std::back_inserter(completions));
    failed_.clear();
    auto milliseconds =
        static_cast<DWORD>(std::chrono::duration_cast<std::chrono::milliseconds>(timeout).count());
    while (free_.size() < in_flight_.size()) {
      DWORD bytes = 0;
      ULONG_PTR key = 0;
      OVERLAPPED* overlapped = nullptr;
      const BOOL ok = GetQueuedCompletionStatus(port_, &bytes, &key, &overlapped,
                                                completions.empty() ? milliseconds : 0);
      if (overlapped == nullptr) return;  // the timeout
      const DWORD error = ok ? ERROR_SUCCESS : GetLastError();
      finish(static_cast<std::size_t>(reinterpret_cast<InFlight*>(overlapped) - in_flight_.data()),
             bytes, error, completions);
    }
  }

  Status check_unchanged() const override {
    for (const DirectFile& file : files_) PRIMA_RETURN_IF_ERROR(file.check_unchanged());
    return {};
  }

 private:
  struct InFlight {
    OVERLAPPED overlapped{};  // first: the completion port gives back its address
    ReadRequest request;
    Bytes done = 0;
  };

  void start(std::size_t index) {
    InFlight& read = in_flight_[index];
    const Bytes offset = read.request.offset + read.done;
    read.overlapped = {};
    read.overlapped.Offset = static_cast<DWORD>(offset);
    read.overlapped.OffsetHigh = static_cast<DWORD>(offset >> 32);
    const BOOL ok =
        ReadFile(handle_of(files_[read.request.file].native()), read.request.buffer + read.done,
                 static_cast<DWORD>(read.request.size - read.done), nullptr, &read.overlapped);
    const DWORD error = ok ? ERROR_SUCCESS : GetLastError();
    // Even a read that is done at once completes through the port; one that cannot start does not.
    if (error != ERROR_SUCCESS && error != ERROR_IO_PENDING) finish(index, 0, error, failed_);
  }

  void finish(std::size_t index, DWORD bytes, DWORD error,
              std::vector<ReadCompletion>& completions) {
    InFlight& read = in_flight_[index];
    const DirectFile& file = files_[read.request.file];
    const Bytes expected = read.request.offset >= file.size()
                               ? 0
                               : std::min(read.request.size, file.size() - read.request.offset);
    Status status;
    if (error != ERROR_SUCCESS && error != ERROR_HANDLE_EOF) {
      status = tl::unexpected(windows_error(
          file.path(), "reading at byte " + std::to_string(read.request.offset), error));
    } else if (const Bytes reached = read.done + bytes; reached < expected) {
      const Bytes next = align_down(reached, file.alignment());
      if (next > read.done) {
        read.done = next;
        return start(index);
      }
      status = fail(ErrorCode::unavailable,
                    file.path().string() + ": became shorter while it was in use",
                    "Put the model file back and start again");
    }
    completions.push_back({read.request.tag, std::move(status), read.request.size});
    free_.push_back(index);
  }

  const std::vector<DirectFile> files_;
  std::vector<InFlight> in_flight_;
  std::vector<std::size_t> free_;       // indices of in_flight_
  std::vector<ReadCompletion> failed_;  // reads that could not be started
  HANDLE port_;
  Bytes alignment_ = 1;
  bool is_direct_ = true;
};

}  // namespace

Result<std::unique_ptr<Reader>> open_reader(std::span<const std::filesystem::path> paths,
                                            const ReaderOptions& options) {
  if (options.kind != ReaderKind::automatic) {
    return fail(ErrorCode::unsupported, "Windows has one reader", "Leave the kind to Prima");
  }
  const auto mode =
      options.direct ? DirectFile::Mode::direct_if_possible : DirectFile::Mode::buffered;
  std::vector<DirectFile> files;
  for (const auto& path : paths) {
    PRIMA_ASSIGN_OR_RETURN(auto file, DirectFile::open(path, mode));
    files.push_back(std::move(file));
  }
  HANDLE port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, nullptr, 0, 1);
  if (port == nullptr) {
    return tl::unexpected(windows_error(paths[0], "completion port", GetLastError()));
  }
  for (const DirectFile& file : files) {
    if (CreateIoCompletionPort(handle_of(file.native()), port, 0, 0) == nullptr) {
      Error error = windows_error(file.path(), "completion port", GetLastError());
      CloseHandle(port);
      return tl::unexpected(std::move(error));
    }
  }
  return std::make_unique<OverlappedReader>(std::move(files), options.queue_depth, port);
}

}  // namespace prima::weights

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "weights/reader.h"
#include "weights/reader_backends.h"

namespace prima::weights {

Bytes expected_bytes(const DirectFile& file, const ReadRequest& request) {
  if (request.offset >= file.size()) return 0;
  return std::min(request.size, file.size() - request.offset);
}

Error read_error(const DirectFile& file, const ReadRequest& request, int error_number) {
  return Error{ErrorCode::io,
               file.path().string() + ": reading " + format_bytes(request.size) + " at byte " +
                   std::to_string(request.offset) + ": " + std::strerror(error_number),
               "Check the disk and its connection"};
}

Error truncated_error(const DirectFile& file) {
  return Error{ErrorCode::unavailable,
               file.path().string() + ": became shorter while it was in use",
               "Put the model file back and start again"};
}

Result<std::unique_ptr<Reader>> open_reader(std::span<const std::filesystem::path> paths,
                                            const ReaderOptions& options) {
  const auto mode =
      options.direct ? DirectFile::Mode::direct_if_possible : DirectFile::Mode::buffered;
  auto open_files = [&]() -> Result<std::vector<DirectFile>> {
    std::vector<DirectFile> files;
    for (const auto& path : paths) {
      PRIMA_ASSIGN_OR_RETURN(auto file, DirectFile::open(path, mode));
      files.push_back(std::move(file));
    }
    return files;
  };
  PRIMA_ASSIGN_OR_RETURN(auto files, open_files());
  if (options.kind == ReaderKind::threads) {
    return open_pread_reader(std::move(files), options.queue_depth);
  }
  auto reader = open_uring_reader(std::move(files), options.queue_depth);
  if (reader || options.kind == ReaderKind::io_uring) return reader;
  log::debug("{}; reading with threads", reader.error().what);
  PRIMA_ASSIGN_OR_RETURN(files, open_files());
  return open_pread_reader(std::move(files), options.queue_depth);
}

}  // namespace prima::weights

// The implementations of Reader on POSIX systems, and what they share.
//
// Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include <sys/types.h>

#include "base/result.h"
#include "weights/direct_file.h"
#include "weights/reader.h"

namespace prima::weights {

// unsupported where the kernel refuses io_uring or the build has no liburing.
Result<std::unique_ptr<Reader>> open_uring_reader(std::vector<DirectFile> files,
                                                  std::size_t queue_depth);

// pread(2), or a test's stand-in for it.
using ReadAt = std::function<ssize_t(int descriptor, void* buffer, std::size_t size, off_t offset)>;

Result<std::unique_ptr<Reader>> open_pread_reader(std::vector<DirectFile> files,
                                                  std::size_t queue_depth, ReadAt read_at = {});

// How many bytes a request must deliver: its size, less what lies beyond the file's end.
Bytes expected_bytes(const DirectFile& file, const ReadRequest& request);

Error read_error(const DirectFile& file, const ReadRequest& request, int error_number);
Error truncated_error(const DirectFile& file);

}  // namespace prima::weights

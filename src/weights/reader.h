// Large aligned reads of a model's files into the caller's memory, many in flight at once.
//
//     submit(request) ... submit(request)      never blocks
//     wait(timeout, completions)               what has completed since
//
// A completion says that the whole request was read (up to the file's end), or why not. Short reads
// are continued inside. The implementations: io_uring, tried at run time because containers and
// phones often refuse it; a pool of threads; overlapped reads on Windows. One leaves the buffers
// alone (in_place_reader.h).
//
// Thread-compatible: one thread submits and waits. Buffers must stay until their completion came;
// destroying a Reader waits for what is in flight.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/units.h"

namespace prima::weights {

struct ReadRequest {
  std::uint32_t file = 0;  // index into the paths that the reader was opened with
  Bytes offset = 0;        // offset, size, buffer: multiples of alignment()
  Bytes size = 0;          // may go beyond the file's end by less than alignment()
  std::byte* buffer = nullptr;
  std::uint64_t tag = 0;  // comes back with the completion
};

struct ReadCompletion {
  std::uint64_t tag = 0;
  Status status;   // io, or unavailable where the file is shorter than it was
  Bytes size = 0;  // of the request
};

class Reader {
 public:
  virtual ~Reader() = default;

  virtual std::string description() const = 0;  // "io_uring, direct"
  virtual bool is_direct() const = 0;           // past the system's file cache
  virtual Bytes alignment() const = 0;
  virtual std::size_t queue_depth() const = 0;  // requests that may be in flight

  // REQUIRES: fewer than queue_depth() are in flight.
  virtual void submit(const ReadRequest& request) = 0;

  // Appends the completions there are; if there are none, waits for the first at most `timeout`.
  virtual void wait(Duration timeout, std::vector<ReadCompletion>& completions) = 0;

  // Fails with unavailable if one of the files changed since it was opened.
  virtual Status check_unchanged() const = 0;
};

enum class ReaderKind { automatic, io_uring, threads };

struct ReaderOptions {
  ReaderKind kind = ReaderKind::automatic;
  bool direct = true;           // where the file system allows; else through the page cache
  std::size_t queue_depth = 8;  // with reads of 1 MiB this keeps an NVMe disk busy
};

// Fails with not_found, io, or unsupported (a kind asked for by name that this system refuses).
Result<std::unique_ptr<Reader>> open_reader(std::span<const std::filesystem::path> paths,
                                            const ReaderOptions& options = {});

}  // namespace prima::weights

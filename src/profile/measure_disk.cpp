#include "profile/measure_disk.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <vector>

#include "weights/reader.h"

namespace prima::profile {
namespace {

// Of the time: what a disk's own cache, a throttle's first allowance and the queue's filling give
// away at the start does not last.
constexpr double kShareNotCounted = 0.25;

// A disk that gives nothing for so long is asleep or broken.
constexpr Duration kStallLimit = std::chrono::seconds(10);

struct Free {
  void operator()(std::byte* memory) const { std::free(memory); }
};

// Reads chunk after chunk of one file, starting anew at its end.
class Scan {
 public:
  Scan(weights::Reader& reader, Bytes file_size, Bytes chunk)
      : reader_(reader), n_chunks_(std::max<Bytes>(1, file_size / chunk)), chunk_(chunk) {
    const Bytes size = chunk * reader.queue_depth();
    buffer_.reset(static_cast<std::byte*>(std::aligned_alloc(reader.alignment(), size)));
  }

  bool has_memory() const { return buffer_ != nullptr; }

  void start(std::size_t slot) {
    reader_.submit({.file = 0,
                    .offset = (next_++ % n_chunks_) * chunk_,
                    .size = chunk_,
                    .buffer = buffer_.get() + slot * chunk_,
                    .tag = slot});
  }

 private:
  weights::Reader& reader_;
  Bytes n_chunks_;
  Bytes chunk_;
  Bytes next_ = 0;
  std::unique_ptr<std::byte, Free> buffer_;
};

std::filesystem::path largest_file(const model::ModelFile& model) {
  std::error_code error;
  return *std::max_element(
      model.paths().begin(), model.paths().end(), [&](const auto& a, const auto& b) {
        return std::filesystem::file_size(a, error) < std::filesystem::file_size(b, error);
      });
}

}  // namespace

Result<DiskSpeed> measure_disk(const model::ModelFile& model,
                               const weights::StreamingOptions& options, Duration limit,
                               const Clock& clock) {
  const std::filesystem::path path = largest_file(model);
  PRIMA_ASSIGN_OR_RETURN(const auto reader,
                         weights::open_reader(std::span(&path, 1), options.reader));
  std::error_code error;
  const Bytes size = std::filesystem::file_size(path, error);
  const Bytes chunk = std::max(
      reader->alignment(), align_down(std::min(options.streamer.chunk, size), reader->alignment()));
  Scan scan(*reader, size, chunk);
  if (!scan.has_memory()) {
    return fail(ErrorCode::resource_exhausted, "no memory for reading from disk", "");
  }
  std::size_t in_flight = reader->queue_depth() - 1;
  for (std::size_t slot = 0; slot < in_flight; ++slot) scan.start(slot);

  const Instant start = clock.now();
  const Instant end = start + limit;
  Instant counting_since = start;
  Instant last = start;
  Bytes counted = 0;
  Status failed;
  std::vector<weights::ReadCompletion> completions;
  while (in_flight > 0) {
    completions.clear();
    reader->wait(kStallLimit, completions);
    const Instant now = clock.now();
    if (completions.empty()) {
      return fail(ErrorCode::io, path.string() + ": the disk does not answer", "Check the disk");
    }
    const bool over = now >= end;
    for (const weights::ReadCompletion& completion : completions) {
      --in_flight;
      if (!completion.status && failed) failed = completion.status;
      if (over || !failed) continue;
      scan.start(completion.tag);
      ++in_flight;
    }
    if (now - start < limit * kShareNotCounted) {
      counting_since = now;
    } else if (last < end) {
      counted += chunk * completions.size();
      last = now;
    }
  }
  PRIMA_RETURN_IF_ERROR(failed);
  const double taken = seconds(last - counting_since);
  return DiskSpeed{taken > 0 ? static_cast<double>(counted) / taken : 0, reader->description()};
}

}  // namespace prima::profile

// Reads by a pool of threads that call pread(2). Works wherever POSIX does.
#include <algorithm>
#include <cerrno>

#include <unistd.h>

#include "weights/reader_backends.h"
#include "weights/reading_threads.h"

namespace prima::weights {

namespace {

class PreadReader final : public Reader {
 public:
  PreadReader(std::vector<DirectFile> files, std::size_t queue_depth, ReadAt read_at)
      : files_(std::move(files)),
        read_at_(std::move(read_at)),
        threads_(queue_depth, [this](const ReadRequest& request) { return read(request); }) {
    for (const DirectFile& file : files_) {
      alignment_ = std::max(alignment_, file.alignment());
      is_direct_ = is_direct_ && file.is_direct();
    }
  }

  std::string description() const override {
    return is_direct_ ? "threads, direct" : "threads, through the page cache";
  }
  bool is_direct() const override { return is_direct_; }
  Bytes alignment() const override { return alignment_; }
  std::size_t queue_depth() const override { return threads_.size(); }

  void submit(const ReadRequest& request) override { threads_.submit(request); }
  void wait(Duration timeout, std::vector<ReadCompletion>& completions) override {
    threads_.wait(timeout, completions);
  }

  Status check_unchanged() const override {
    for (const DirectFile& file : files_) PRIMA_RETURN_IF_ERROR(file.check_unchanged());
    return {};
  }

 private:
  Status read(const ReadRequest& request) const {
    const DirectFile& file = files_[request.file];
    const Bytes expected = expected_bytes(file, request);
    Bytes done = 0;
    while (done < expected) {
      const ssize_t count =
          read_at_(static_cast<int>(file.native()), request.buffer + done, request.size - done,
                   static_cast<off_t>(request.offset + done));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return tl::unexpected(read_error(file, request, errno));
      if (count == 0) return tl::unexpected(truncated_error(file));
      // A direct read can only go on from an aligned place: the last, partial block again.
      const Bytes reached = done + static_cast<Bytes>(count);
      const Bytes next = reached < expected ? align_down(reached, file.alignment()) : reached;
      if (next == done) return tl::unexpected(truncated_error(file));
      done = next;
    }
    file.forget_cached(request.offset, request.size);
    return {};
  }

  const std::vector<DirectFile> files_;
  const ReadAt read_at_;
  Bytes alignment_ = 1;
  bool is_direct_ = true;
  ReadingThreads threads_;  // last: they use all the others
};

}  // namespace

Result<std::unique_ptr<Reader>> open_pread_reader(std::vector<DirectFile> files,
                                                  std::size_t queue_depth, ReadAt read_at) {
  if (!read_at) read_at = ::pread;
  return std::make_unique<PreadReader>(std::move(files), queue_depth, std::move(read_at));
}

}  // namespace prima::weights

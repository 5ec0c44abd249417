// Reads through Linux's io_uring: the deepest queue for the least processor time.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include <liburing.h>

#include "base/log.h"
#include "weights/reader_backends.h"

namespace prima::weights {

namespace {

class UringReader final : public Reader {
 public:
  UringReader(std::vector<DirectFile> files, std::size_t queue_depth, const io_uring& ring)
      : files_(std::move(files)), in_flight_(queue_depth), ring_(ring) {
    for (const DirectFile& file : files_) {
      alignment_ = std::max(alignment_, file.alignment());
      is_direct_ = is_direct_ && file.is_direct();
    }
    for (std::size_t i = 0; i < queue_depth; ++i) free_.push_back(i);
  }

  ~UringReader() override {
    // The kernel may still write into buffers of reads in flight: wait for them. A disk that has
    // not answered for this long will not; the kernel keeps the pages until it does.
    constexpr int kPatienceSeconds = 30;
    for (int i = 0; i < kPatienceSeconds && free_.size() < in_flight_.size(); ++i) {
      std::vector<ReadCompletion> ignored;
      wait(std::chrono::seconds(1), ignored);
    }
    io_uring_queue_exit(&ring_);
  }

  std::string description() const override {
    return is_direct_ ? "io_uring, direct" : "io_uring, through the page cache";
  }
  bool is_direct() const override { return is_direct_; }
  Bytes alignment() const override { return alignment_; }
  std::size_t queue_depth() const override { return in_flight_.size(); }

  void submit(const ReadRequest& request) override {
    const std::size_t index = free_.back();
    free_.pop_back();
    in_flight_[index] = {request, 0};
    start(index);
  }

  void wait(Duration timeout, std::vector<ReadCompletion>& completions) override {
    const std::size_t before = completions.size();
    reap(completions);
    if (completions.size() > before || free_.size() == in_flight_.size()) return;
    __kernel_timespec limit{};
    limit.tv_sec = std::chrono::duration_cast<std::chrono::seconds>(timeout).count();
    limit.tv_nsec = (timeout % std::chrono::seconds(1)).count();
    io_uring_cqe* entry = nullptr;
    (void)io_uring_wait_cqe_timeout(&ring_, &entry, &limit);  // a timeout is no completion
    reap(completions);
  }

  Status check_unchanged() const override {
    for (const DirectFile& file : files_) PRIMA_RETURN_IF_ERROR(file.check_unchanged());
    return {};
  }

 private:
  struct InFlight {
    ReadRequest request;
    Bytes done = 0;
  };

  void start(std::size_t index) {
    const InFlight& read = in_flight_[index];
    // There is an entry for every request that may be in flight, and all are submitted at once.
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    io_uring_prep_read(entry, static_cast<int>(files_[read.request.file].native()),
                       read.request.buffer + read.done,
                       static_cast<unsigned>(read.request.size - read.done),
                       read.request.offset + read.done);
    io_uring_sqe_set_data64(entry, index);
    int submitted = io_uring_submit(&ring_);
    while (submitted == -EINTR || submitted == -EAGAIN) submitted = io_uring_submit(&ring_);
  }

  void reap(std::vector<ReadCompletion>& completions) {
    io_uring_cqe* entry = nullptr;
    while (io_uring_peek_cqe(&ring_, &entry) == 0) {
      const std::size_t index = io_uring_cqe_get_data64(entry);
      const int result = entry->res;
      io_uring_cqe_seen(&ring_, entry);
      if (index < in_flight_.size()) finish(index, result, completions);
    }
  }

  void finish(std::size_t index, int result, std::vector<ReadCompletion>& completions) {
    InFlight& read = in_flight_[index];
    const DirectFile& file = files_[read.request.file];
    if (result == -EINTR || result == -EAGAIN) return start(index);
    Status status;
    if (result < 0) {
      status = tl::unexpected(read_error(file, read.request, -result));
    } else {
      const Bytes expected = expected_bytes(file, read.request);
      const Bytes reached = read.done + static_cast<Bytes>(result);
      if (reached < expected) {
        // A direct read can only go on from an aligned place: the last, partial block again.
        const Bytes next = align_down(reached, file.alignment());
        if (next > read.done) {
          read.done = next;
          return start(index);
        }
        status = tl::unexpected(truncated_error(file));
      } else {
        file.forget_cached(read.request.offset, read.request.size);
      }
    }
    completions.push_back({read.request.tag, std::move(status), read.request.size});
    free_.push_back(index);
  }

  const std::vector<DirectFile> files_;
  std::vector<InFlight> in_flight_;
  std::vector<std::size_t> free_;  // indices of in_flight_
  io_uring ring_;
  Bytes alignment_ = 1;
  bool is_direct_ = true;
};

}  // namespace

Result<std::unique_ptr<Reader>> open_uring_reader(std::vector<DirectFile> files,
                                                  std::size_t queue_depth) {
  io_uring ring{};
  // Twice the depth: waiting with a timeout may itself take an entry on kernels before 5.11.
  const int result = io_uring_queue_init(static_cast<unsigned>(2 * queue_depth), &ring, 0);
  if (result < 0) {
    return fail(ErrorCode::unsupported,
                std::string("the kernel refuses io_uring: ") + std::strerror(-result));
  }
  return std::make_unique<UringReader>(std::move(files), queue_depth, ring);
}

}  // namespace prima::weights

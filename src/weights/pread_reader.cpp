// Reads by a pool of threads that call pread(2). Works wherever POSIX does.
#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include <unistd.h>

#include "weights/reader_backends.h"

namespace prima::weights {

namespace {

class PreadReader final : public Reader {
 public:
  PreadReader(std::vector<DirectFile> files, std::size_t queue_depth, ReadAt read_at)
      : files_(std::move(files)), queue_depth_(queue_depth), read_at_(std::move(read_at)) {
    for (const DirectFile& file : files_) {
      alignment_ = std::max(alignment_, file.alignment());
      is_direct_ = is_direct_ && file.is_direct();
    }
    for (std::size_t i = 0; i < queue_depth_; ++i) {
      threads_.emplace_back([this](std::stop_token stop) { work(stop); });
    }
  }

  ~PreadReader() override {
    for (std::jthread& thread : threads_) thread.request_stop();
    submitted_.notify_all();
  }

  std::string description() const override {
    return is_direct_ ? "threads, direct" : "threads, through the page cache";
  }
  bool is_direct() const override { return is_direct_; }
  Bytes alignment() const override { return alignment_; }
  std::size_t queue_depth() const override { return queue_depth_; }

  void submit(const ReadRequest& request) override {
    {
      std::lock_guard lock(mutex_);
      requests_.push_back(request);
    }
    submitted_.notify_one();
  }

  void wait(Duration timeout, std::vector<ReadCompletion>& completions) override {
    std::unique_lock lock(mutex_);
    completed_.wait_for(lock, timeout, [this] { return !completions_.empty(); });
    std::move(completions_.begin(), completions_.end(), std::back_inserter(completions));
    completions_.clear();
  }

  Status check_unchanged() const override {
    for (const DirectFile& file : files_) PRIMA_RETURN_IF_ERROR(file.check_unchanged());
    return {};
  }

 private:
  void work(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (true) {
      submitted_.wait(lock, stop, [this] { return !requests_.empty(); });
      if (stop.stop_requested()) return;
      const ReadRequest request = requests_.front();
      requests_.pop_front();
      lock.unlock();
      ReadCompletion completion{request.tag, read(request), request.size};
      lock.lock();
      completions_.push_back(std::move(completion));
      completed_.notify_one();
    }
  }

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
  const std::size_t queue_depth_;
  const ReadAt read_at_;
  Bytes alignment_ = 1;
  bool is_direct_ = true;

  std::mutex mutex_;
  std::condition_variable_any submitted_;
  std::condition_variable completed_;
  std::deque<ReadRequest> requests_;
  std::vector<ReadCompletion> completions_;
  std::vector<std::jthread> threads_;  // last: they use all the others
};

}  // namespace

Result<std::unique_ptr<Reader>> open_pread_reader(std::vector<DirectFile> files,
                                                  std::size_t queue_depth, ReadAt read_at) {
  if (!read_at) read_at = ::pread;
  return std::make_unique<PreadReader>(std::move(files), queue_depth, std::move(read_at));
}

}  // namespace prima::weights

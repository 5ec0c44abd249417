#include "weights/reading_threads.h"

#include <iterator>
#include <utility>

namespace prima::weights {

ReadingThreads::ReadingThreads(std::size_t n_threads,
                               std::function<Status(const ReadRequest&)> serve)
    : serve_(std::move(serve)) {
  for (std::size_t i = 0; i < n_threads; ++i) {
    threads_.emplace_back([this](std::stop_token stop) { work(stop); });
  }
}

ReadingThreads::~ReadingThreads() {
  for (std::jthread& thread : threads_) thread.request_stop();
  submitted_.notify_all();
}

void ReadingThreads::submit(const ReadRequest& request) {
  {
    std::lock_guard lock(mutex_);
    requests_.push_back(request);
  }
  submitted_.notify_one();
}

void ReadingThreads::wait(Duration timeout, std::vector<ReadCompletion>& completions) {
  std::unique_lock lock(mutex_);
  completed_.wait_for(lock, timeout, [this] { return !completions_.empty(); });
  std::move(completions_.begin(), completions_.end(), std::back_inserter(completions));
  completions_.clear();
}

void ReadingThreads::work(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (true) {
    submitted_.wait(lock, stop, [this] { return !requests_.empty(); });
    if (stop.stop_requested()) return;
    const ReadRequest request = requests_.front();
    requests_.pop_front();
    lock.unlock();
    ReadCompletion completion{request.tag, serve_(request), request.size};
    lock.lock();
    completions_.push_back(std::move(completion));
    completed_.notify_one();
  }
}

}  // namespace prima::weights

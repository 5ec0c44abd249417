// A pool of threads that serve a Reader's requests: each one request at a time, oldest first.
//
// Thread-compatible, as Reader. Destroying it waits for what is being served; the rest is left.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "weights/reader.h"

namespace prima::weights {

class ReadingThreads {
 public:
  // `serve` is called by several threads at once.
  ReadingThreads(std::size_t n_threads, std::function<Status(const ReadRequest&)> serve);
  ~ReadingThreads();
  ReadingThreads(const ReadingThreads&) = delete;
  ReadingThreads& operator=(const ReadingThreads&) = delete;

  // As Reader's.
  void submit(const ReadRequest& request);
  void wait(Duration timeout, std::vector<ReadCompletion>& completions);

  std::size_t size() const { return threads_.size(); }

 private:
  void work(const std::stop_token& stop);

  const std::function<Status(const ReadRequest&)> serve_;
  std::mutex mutex_;
  std::condition_variable_any submitted_;
  std::condition_variable completed_;
  std::deque<ReadRequest> requests_;
  std::vector<ReadCompletion> completions_;
  std::vector<std::jthread> threads_;  // last: they use all the others
};

}  // namespace prima::weights

// What happens to the answers of one HTTP request, on its way from the thread that generates to the
// thread that talks to the client.
//
// Thread-safe.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "generate/answer.h"

namespace prima::server {

struct AnswerEvent {
  std::size_t choice = 0;
  std::string text;                           // new
  std::vector<generate::AnswerToken> tokens;  // new
  std::optional<Result<generate::Answer>> end;
};

class Mailbox {
 public:
  void put(AnswerEvent event) {
    {
      const std::lock_guard lock(mutex_);
      events_.push_back(std::move(event));
    }
    arrived_.notify_one();
  }

  // nullopt if none came in time.
  std::optional<AnswerEvent> take(Duration limit) {
    std::unique_lock lock(mutex_);
    if (!arrived_.wait_for(lock, limit, [this] { return !events_.empty(); })) return std::nullopt;
    AnswerEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<AnswerEvent> events_;
};

}  // namespace prima::server

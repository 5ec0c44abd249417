// Writes the layer store while the device has nothing else to do: a thread that waits until there
// has been no work for a while, writes, and stops within a few megabytes when work comes.
//
//     waiting --no work for `calm_time`--> writing --all written, or failed--> done
//        ^                                    |
//        +------------- touch() --------------+
//
// touch(), working() and progress() are thread-safe.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/clock.h"
#include "weights/layer_store.h"

namespace prima::weights {

// For a person to see. Called from the writer's thread.
struct StoreProgress {
  Bytes done = 0;
  Bytes total = 0;
  std::optional<Error> failed{};
};
using ShowStoreProgress = std::function<void(const StoreProgress&)>;

class StoreWriter {
 public:
  // `calm_time`: longer than a device waits for the others within any request.
  StoreWriter(LayerStore store, WeightLayout layout, Duration calm_time, ShowStoreProgress show);
  ~StoreWriter();
  StoreWriter(const StoreWriter&) = delete;
  StoreWriter& operator=(const StoreWriter&) = delete;

  // While one of these lives, and for calm_time after it, nothing is written.
  class Work {
   public:
    explicit Work(StoreWriter* writer);
    ~Work();
    Work(const Work&) = delete;
    Work& operator=(const Work&) = delete;

   private:
    StoreWriter* writer_;  // null: there is none
  };

 private:
  void run();
  bool wait_for_calm();

  LayerStore store_;
  const WeightLayout layout_;
  const Duration calm_time_;
  const ShowStoreProgress show_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  int working_ = 0;
  Instant last_work_;
  std::thread thread_;  // last: it uses all the others
};

}  // namespace prima::weights

#include "weights/store_writer.h"

#include <utility>

#include "base/log.h"

namespace prima::weights {

StoreWriter::StoreWriter(LayerStore store, WeightLayout layout, Duration calm_time,
                         ShowStoreProgress show)
    : store_(std::move(store)),
      layout_(std::move(layout)),
      calm_time_(calm_time),
      show_(std::move(show)),
      last_work_(SystemClock().now()) {
  thread_ = std::thread([this] { run(); });
}

StoreWriter::~StoreWriter() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

StoreWriter::Work::Work(StoreWriter* writer) : writer_(writer) {
  if (writer_ == nullptr) return;
  const std::lock_guard lock(writer_->mutex_);
  ++writer_->working_;
}

StoreWriter::Work::~Work() {
  if (writer_ == nullptr) return;
  {
    const std::lock_guard lock(writer_->mutex_);
    --writer_->working_;
    writer_->last_work_ = SystemClock().now();
  }
  writer_->changed_.notify_all();
}

// False at the end.
bool StoreWriter::wait_for_calm() {
  const SystemClock clock;
  std::unique_lock lock(mutex_);
  while (!stop_) {
    const Duration calm = clock.now() - last_work_;
    if (working_ == 0 && calm >= calm_time_) return true;
    if (working_ > 0) {
      changed_.wait(lock);
    } else {
      changed_.wait_for(lock, calm_time_ - calm);
    }
  }
  return false;
}

void StoreWriter::run() {
  if (!wait_for_calm()) return;
  StoreProgress progress;
  const Status written = store_.write(layout_, [&](Bytes done, Bytes total) {
    progress.done = done;
    progress.total = total;
    if (show_) show_(progress);
    return wait_for_calm();
  });
  if (written || written.error().code == ErrorCode::cancelled) return;
  log::warn("{}", written.error().message());
  progress.failed = written.error();
  if (show_) show_(progress);
}

}  // namespace prima::weights

#include "ring/head_control.h"

#include <utility>

#include "base/log.h"

namespace prima::ring {

HeadControl::HeadControl(transport::Network& network, std::unique_ptr<transport::Listener> listener,
                         std::uint32_t n_workers, HeartbeatTimes times,
                         std::function<void()> on_change)
    : network_(network),
      listener_(std::move(listener)),
      times_(times),
      on_change_(std::move(on_change)),
      membership_(n_workers, times),
      thread_(network.start_thread("head control", [this] { run(); })) {}

HeadControl::~HeadControl() {
  {
    const std::lock_guard lock(mutex_);
    queue(membership_.release("the head has finished"));
    stopping_ = true;
  }
  listener_->interrupt();
  thread_.reset();
}

void HeadControl::watch(std::function<NodeProgress()> progress) {
  const std::lock_guard lock(mutex_);
  progress_ = std::move(progress);
}

void HeadControl::set_epoch(std::uint32_t epoch) {
  {
    const std::lock_guard lock(mutex_);
    epoch_ = epoch;
    beat_now_ = true;
  }
  listener_->interrupt();
}

std::optional<Error> HeadControl::failure() {
  const std::lock_guard lock(mutex_);
  return membership_.failure();
}

void HeadControl::queue(std::vector<Outgoing> outgoing) {
  std::ranges::move(outgoing, std::back_inserter(outgoing_));
}

void HeadControl::send_queued() {
  std::vector<Outgoing> outgoing;
  {
    const std::lock_guard lock(mutex_);
    outgoing.swap(outgoing_);
  }
  for (const Outgoing& each : outgoing) {
    // A worker that can't be reached now is noticed by its silence.
    if (const Status sent = listener_->send(each.peer, {encode(each.message), {}}); !sent) {
      log::debug("{}", sent.error().message());
    }
  }
}

void HeadControl::run() {
  Instant next_beat = network_.clock().now();
  while (true) {
    auto incoming = listener_->receive(next_beat);
    const Instant now = network_.clock().now();
    bool changed = false;
    bool stopping = false;
    {
      const std::lock_guard lock(mutex_);
      if (incoming) {
        auto message = decode_control(incoming->message.header);
        if (message) {
          queue(membership_.receive(incoming->peer, incoming->address, *message, now));
          changed = !std::holds_alternative<Heartbeat>(*message);
        } else {
          log::warn("{}: {}", incoming->address, message.error().message());
        }
      }
      if (now >= next_beat || std::exchange(beat_now_, false)) {
        const bool failed = membership_.failure().has_value();
        queue(membership_.tick(now, epoch_, progress_ ? progress_() : NodeProgress{}));
        changed = changed || failed != membership_.failure().has_value();
        next_beat = now + times_.interval;
      }
      stopping = stopping_;
    }
    send_queued();
    if (stopping) return;
    if (changed) on_change_();
  }
}

}  // namespace prima::ring

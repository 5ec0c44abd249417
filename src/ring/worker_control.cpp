#include "ring/worker_control.h"

#include <utility>

#include "base/log.h"

namespace prima::ring {

WorkerControl::WorkerControl(transport::Network& network, std::unique_ptr<transport::Link> link,
                             Hello hello, std::function<void()> on_change)
    : network_(network),
      link_(std::move(link)),
      hello_(std::move(hello)),
      on_change_(std::move(on_change)),
      thread_(network.start_thread("worker control", [this] { run(); })) {}

WorkerControl::~WorkerControl() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  link_->interrupt();
  thread_.reset();
}

WorkerControl::State WorkerControl::state() {
  const std::lock_guard lock(mutex_);
  return state_;
}

std::optional<Error> WorkerControl::reason() {
  const std::lock_guard lock(mutex_);
  return reason_;
}

std::optional<Assignment> WorkerControl::take_assignment() {
  const std::lock_guard lock(mutex_);
  return std::exchange(assignment_, std::nullopt);
}

std::optional<ControlMessage> WorkerControl::take_question() {
  const std::lock_guard lock(mutex_);
  return std::exchange(question_, std::nullopt);
}

void WorkerControl::send(ControlMessage message) {
  {
    const std::lock_guard lock(mutex_);
    outgoing_.push_back(std::move(message));
  }
  link_->interrupt();
}

void WorkerControl::report(std::uint64_t session, std::function<NodeProgress()> progress) {
  const std::lock_guard lock(mutex_);
  session_ = session;
  progress_ = std::move(progress);
}

void WorkerControl::leave(Error reason) {
  if (state_ == State::left) return;
  state_ = State::left;
  reason_ = std::move(reason);
}

void WorkerControl::take(ControlMessage message) {
  if (const auto* const welcome = std::get_if<Welcome>(&message)) {
    interval_ = welcome->heartbeat_interval;
    timeout_ = welcome->heartbeat_timeout;
    if (state_ == State::greeting) state_ = State::member;
  } else if (auto* const refusal = std::get_if<Refusal>(&message)) {
    head_knows_ = true;
    leave(std::move(refusal->error));
  } else if (auto* const assignment = std::get_if<Assignment>(&message)) {
    assignment_ = std::move(*assignment);
  } else if (std::holds_alternative<ProfileRequest>(message) ||
             std::holds_alternative<LinkRequest>(message)) {
    question_ = std::move(message);
  } else if (const auto* const heartbeat = std::get_if<Heartbeat>(&message)) {
    if (heartbeat->session == session_ && heartbeat->epoch > epoch_) epoch_ = heartbeat->epoch;
  } else if (auto* const release = std::get_if<Release>(&message)) {
    head_knows_ = true;
    leave({ErrorCode::cancelled, std::move(release->reason), ""});
  }
}

void WorkerControl::beat() {
  if (state_ == State::greeting) {  // again: the first may have been lost
    outgoing_.emplace_back(hello_);
    return;
  }
  Heartbeat heartbeat{
      .session = session_, .epoch = epoch_, .idle = false, .sent = {}, .received = {}};
  if (progress_) {
    const NodeProgress progress = progress_();
    heartbeat.idle = progress.idle;
    for (const auto& [device, count] : progress.sent) heartbeat.sent.push_back(count);
    for (const auto& [device, count] : progress.received) heartbeat.received.push_back(count);
  }
  outgoing_.emplace_back(std::move(heartbeat));
}

void WorkerControl::run() {
  Instant next_beat = network_.clock().now();
  Instant last_heard = next_beat;
  while (true) {
    const auto received = link_->receive(next_beat);
    const Instant now = network_.clock().now();
    std::vector<ControlMessage> outgoing;
    bool changed = false;
    bool stopping = false;
    {
      const std::lock_guard lock(mutex_);
      if (received) {
        last_heard = now;
        if (auto message = decode_control(received->header)) {
          const std::uint32_t epoch = epoch_;
          changed = !std::holds_alternative<Heartbeat>(*message);
          take(std::move(*message));
          changed = changed || epoch_ != epoch;
        } else {
          log::warn("The head: {}", message.error().message());
        }
      }
      if (now - last_heard > timeout_ && state_ != State::left) {
        leave({ErrorCode::unavailable, "the head does not answer", ""});
        changed = true;
      }
      if (now >= next_beat) {
        if (state_ != State::left) beat();
        next_beat = now + interval_;
      }
      stopping = stopping_;
      if (stopping && !head_knows_) outgoing_.emplace_back(Release{session_, "it was ended"});
      outgoing.swap(outgoing_);
    }
    for (const ControlMessage& message : outgoing) {
      if (const Status sent = link_->send({encode(message), {}}); !sent) {
        log::debug("{}", sent.error().message());
      }
    }
    if (stopping) return;
    if (changed) on_change_();
  }
}

}  // namespace prima::ring

// The head's control thread: it talks to the workers while the head computes, so that a slow head
// is not taken for a dead one, and a dead worker is noticed while nobody waits for it.
//
// Thread-safe. Destroying it releases all workers.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "ring/membership.h"
#include "transport/network.h"

namespace prima::ring {

class HeadControl {
 public:
  // `on_change` is called from the control thread whenever something the head may wait for
  // happened.
  HeadControl(transport::Network& network, std::unique_ptr<transport::Listener> listener,
              std::uint32_t n_workers, HeartbeatTimes times, std::function<void()> on_change);
  ~HeadControl();
  HeadControl(const HeadControl&) = delete;
  HeadControl& operator=(const HeadControl&) = delete;

  std::uint16_t port() const { return listener_->port(); }

  // Runs `use` on the membership, whose outgoing messages, if it returns any, are sent.
  template <typename Use>
  auto with_members(Use use) {
    using Returned = decltype(use(membership_));
    if constexpr (std::is_same_v<Returned, std::vector<Outgoing>>) {
      {
        const std::lock_guard lock(mutex_);
        queue(use(membership_));
      }
      listener_->interrupt();
    } else {
      const std::lock_guard lock(mutex_);
      return use(membership_);
    }
  }

  // Where the head's own node stands; asked for at every heartbeat. Empty function: nowhere yet.
  void watch(std::function<NodeProgress()> progress);

  // Tells all workers to drop steps of earlier epochs.
  void set_epoch(std::uint32_t epoch);

  std::optional<Error> failure();

 private:
  void run();
  void queue(std::vector<Outgoing> outgoing);
  void send_queued();

  transport::Network& network_;
  const std::unique_ptr<transport::Listener> listener_;
  const HeartbeatTimes times_;
  const std::function<void()> on_change_;

  std::mutex mutex_;
  Membership membership_;
  std::vector<Outgoing> outgoing_;
  std::function<NodeProgress()> progress_;
  std::uint32_t epoch_ = 0;
  bool beat_now_ = false;
  bool stopping_ = false;

  std::unique_ptr<transport::Thread> thread_;  // last: it uses all of the above
};

}  // namespace prima::ring

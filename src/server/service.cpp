#include "server/service.h"

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace prima::server {

namespace {

Error shutting_down() {
  return {ErrorCode::unavailable, "the server is shutting down", "Try again later"};
}

}  // namespace

ServiceState Service::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

Result<Service::Ticket> Service::submit(generate::Request request, text::Sampler sampler,
                                        std::shared_ptr<Mailbox> mailbox, std::size_t choice) {
  const std::lock_guard lock(mutex_);
  using Phase = ServiceState::Phase;
  if (state_.phase == Phase::loading) {
    return fail(ErrorCode::unavailable, "the model is not ready: " + state_.progress,
                "Try again a little later");
  }
  if (state_.phase != Phase::ready) return tl::unexpected(shutting_down());
  if (pending_ >= options_.max_pending) {
    metrics_.count_request("refused");
    return fail(ErrorCode::resource_exhausted,
                std::to_string(pending_) + " requests are being answered or wait already",
                "Try again a little later");
  }
  ++pending_;
  const Ticket ticket = next_ticket_++;
  inbox_.emplace_back(
      Submission{ticket, std::move(request), std::move(sampler), std::move(mailbox), choice});
  news_.notify_all();
  return ticket;
}

void Service::cancel(Ticket ticket) {
  const std::lock_guard lock(mutex_);
  inbox_.emplace_back(Cancellation{ticket});
  news_.notify_all();
}

std::string Service::metrics() const {
  const std::lock_guard lock(mutex_);
  return metrics_.print(state_.phase == ServiceState::Phase::ready, clock_.now());
}

void Service::drain() {
  const std::lock_guard lock(mutex_);
  if (state_.phase != ServiceState::Phase::stopped) state_.phase = ServiceState::Phase::draining;
  news_.notify_all();
}

bool Service::is_draining() const {
  const std::lock_guard lock(mutex_);
  return state_.phase == ServiceState::Phase::draining;
}

void Service::loading(std::string progress) {
  const std::lock_guard lock(mutex_);
  if (state_.phase == ServiceState::Phase::draining) return;
  state_ = {ServiceState::Phase::loading, std::move(progress)};
}

void Service::stopped() {
  const std::lock_guard lock(mutex_);
  state_.phase = ServiceState::Phase::stopped;
}

Status Service::drive(generate::Batcher& batcher, ring::Ring& ring) {
  {
    const std::lock_guard lock(mutex_);
    metrics_.set_ring(ring.describe(), clock_.now());
    if (state_.phase == ServiceState::Phase::loading) state_ = {ServiceState::Phase::ready, ""};
  }
  std::optional<Instant> limit;  // once draining
  for (;;) {
    take_inbox(batcher);
    publish(batcher);
    if (is_draining()) {
      if (!limit) limit = clock_.now() + options_.drain_limit;
      const bool told = clock_.now() >= *limit;
      if (told) {
        const auto running = running_;
        for (const auto& [ticket, id] : running) batcher.cancel(id);
      }
      if (told || batcher.idle()) {
        refuse_inbox(shutting_down());
        return {};
      }
    }
    if (batcher.idle() && batcher.steps_in_flight() == 0) {
      if (await_news(options_.replan_interval)) continue;
      const auto reason = ring.reason_to_form_anew();
      if (!reason) continue;
      log::info("forming the ring anew: {}", *reason);
      loading("Forming the ring anew: " + *reason);
      return {};  // what has come meanwhile waits for the next drive()
    }
    const Status worked = batcher.work([&] {
      return has_news() || (limit && clock_.now() >= *limit) || (!limit && is_draining());
    });
    if (!worked) {
      refuse_inbox(worked.error());
      return worked;
    }
  }
}

bool Service::await_news(Duration limit) {
  std::unique_lock lock(mutex_);
  return news_.wait_for(lock, limit, [this] {
    return !inbox_.empty() || state_.phase == ServiceState::Phase::draining;
  });
}

bool Service::has_news() const {
  const std::lock_guard lock(mutex_);
  return !inbox_.empty();
}

void Service::take_inbox(generate::Batcher& batcher) {
  for (;;) {
    std::variant<Submission, Cancellation> next = Cancellation{};
    {
      const std::lock_guard lock(mutex_);
      if (inbox_.empty()) return;
      next = std::move(inbox_.front());
      inbox_.pop_front();
    }
    if (auto* submission = std::get_if<Submission>(&next)) {
      start(batcher, std::move(*submission));
    } else if (const auto running = running_.find(std::get<Cancellation>(next).ticket);
               running != running_.end()) {
      batcher.cancel(running->second);
    }
  }
}

void Service::start(generate::Batcher& batcher, Submission submission) {
  const Ticket ticket = submission.ticket;
  const std::shared_ptr<Mailbox> mailbox = submission.mailbox;
  const std::size_t choice = submission.choice;
  submission.request.on_text = [mailbox, choice](std::string_view text,
                                                 std::span<const generate::AnswerToken> tokens) {
    mailbox->put({.choice = choice,
                  .text = std::string(text),
                  .tokens = {tokens.begin(), tokens.end()},
                  .end = {}});
  };
  const auto id = batcher.add(std::move(submission.request), std::move(submission.sampler),
                              [this, ticket, mailbox, choice](Result<generate::Answer> answer) {
                                end(ticket, *mailbox, choice, std::move(answer));
                              });
  if (id) {
    running_[ticket] = *id;
  } else {
    end(ticket, *mailbox, choice, tl::unexpected(id.error()));
  }
}

void Service::end(Ticket ticket, Mailbox& mailbox, std::size_t choice,
                  Result<generate::Answer> answer) {
  running_.erase(ticket);
  {
    const std::lock_guard lock(mutex_);
    --pending_;
    if (answer) {
      metrics_.count_answer(*answer);
    } else {
      metrics_.count_request("error");
    }
    // The limit has come: what was written is not the answer that was asked for.
    const bool stopped = state_.phase == ServiceState::Phase::draining && answer &&
                         answer->finish == generate::FinishReason::cancelled;
    if (stopped) answer = tl::unexpected(shutting_down());
  }
  mailbox.put({.choice = choice, .text = {}, .tokens = {}, .end = std::move(answer)});
}

void Service::refuse_inbox(const Error& error) {
  std::deque<std::variant<Submission, Cancellation>> refused;
  {
    const std::lock_guard lock(mutex_);
    refused.swap(inbox_);
    // Nothing is accepted until the next drive().
    if (state_.phase == ServiceState::Phase::ready) {
      state_ = {ServiceState::Phase::loading, error.message()};
    }
  }
  for (auto& item : refused) {
    auto* submission = std::get_if<Submission>(&item);
    if (submission == nullptr) continue;
    end(submission->ticket, *submission->mailbox, submission->choice, tl::unexpected(error));
  }
}

void Service::publish(const generate::Batcher& batcher) {
  const generate::BatcherStatistics statistics = batcher.statistics();
  const std::lock_guard lock(mutex_);
  metrics_.set_batcher(statistics);
}

}  // namespace prima::server

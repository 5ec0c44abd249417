// A ring for tests: a toy model whose next token is a function of all tokens before it, on a clock
// that it moves itself. It keeps its own table of KV cells and refuses a step that contradicts it.
#pragma once

#include <array>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "compute/kv_cells.h"
#include "ring/ring.h"

namespace prima::generate {

// The tokens of each sequence.
using Histories = std::map<std::int32_t, std::vector<std::int32_t>>;

// What the step's KV operations leave of them.
inline void apply_operations(const compute::Step& step, Histories& histories) {
  for (const compute::KvOperation& operation : step.kv_operations) {
    auto& history = histories[operation.sequence];
    if (operation.kind == compute::KvOperation::Kind::copy) {
      histories[operation.target].assign(history.begin(), history.begin() + operation.to);
    } else {
      history.resize(static_cast<std::size_t>(operation.from));
    }
  }
}

class FakeRing final : public ring::Ring {
 public:
  struct Options {
    std::uint32_t n_vocab = 0;
    std::uint32_t n_ctx = 64;
    std::uint32_t max_steps_in_flight = 1;
    Duration step_time = std::chrono::milliseconds(10);  // a step, from submit to the result,
    Duration token_time{};                               // and more for each of its tokens
    bool waits_in_submit = false;  // as one device that reads its weights from disk
    // The token that the toy model likes best after these.
    std::function<std::int32_t(const std::vector<std::int32_t>&)> next_token;
  };

  FakeRing(Options options, ManualClock& clock)
      : options_(std::move(options)), clock_(clock), cells_(options_.n_ctx) {}

  Status submit(const compute::Step& step, std::span<const std::int32_t> tokens, Instant) override {
    if (fail_submit_at && *fail_submit_at == step.id) {
      return fail(ErrorCode::unavailable, "device tablet is gone");
    }
    PRIMA_RETURN_IF_ERROR(cells_.apply(step));
    apply_operations(step, histories_);
    Finished finished;
    finished.step_id = step.id;
    finished.timings.total = options_.step_time + step.n_tokens() * options_.token_time;
    std::size_t output = 0;
    for (std::uint32_t i = 0; i < step.n_tokens(); ++i) {
      auto& history = histories_[step.sequences[i]];
      if (step.positions[i] != static_cast<std::int32_t>(history.size())) {
        return fail(ErrorCode::corrupt, "a position does not follow its sequence");
      }
      history.push_back(tokens[i]);
      if (output < step.outputs.size() && step.outputs[output] == i) {
        ++output;
        if (step.embeddings) {
          for (const float value : state_of(tokens[i], step.positions[i])) {
            finished.logits.push_back(value);
          }
          continue;
        }
        std::vector<float> logits(options_.n_vocab, 0.0f);
        logits.at(static_cast<std::size_t>(options_.next_token(history))) = 10.0f;
        finished.logits.insert(finished.logits.end(), logits.begin(), logits.end());
      }
    }
    steps.push_back(step);
    const Instant ready = clock_.now() + finished.timings.total;
    if (options_.waits_in_submit) {
      work_idly(ready, Instant::max());
      clock_.set(std::max(clock_.now(), ready));
    }
    queue_.push_back({std::move(finished), ready});
    most_in_flight = std::max(most_in_flight, queue_.size());
    return {};
  }

  // What the toy model thinks of a token.
  static std::array<float, 3> state_of(std::int32_t token, std::int32_t position) {
    return {static_cast<float>(token), static_cast<float>(position), 1.0f};
  }

  Result<Finished> next(Instant deadline) override {
    if (queue_.empty()) return fail(ErrorCode::invalid_argument, "no step is in flight");
    auto& [finished, ready] = queue_.front();
    work_idly(ready, deadline);
    if (ready > deadline) {
      clock_.set(deadline);
      return fail(ErrorCode::deadline_exceeded, "not yet");
    }
    clock_.set(std::max(clock_.now(), ready));
    Finished result = std::move(finished);
    queue_.pop_front();
    return result;
  }

  std::size_t in_flight() const override { return queue_.size(); }

  Status reset(Instant) override {
    queue_.clear();
    cells_.clear();
    histories_.clear();
    ++resets;
    return {};
  }

  ring::RingDescription describe() const override {
    return {.devices = {}, .rounds = 1, .max_steps_in_flight = options_.max_steps_in_flight};
  }

  void set_idle_work(IdleWork* work) override { idle_work_ = work; }

  const std::vector<std::int32_t>& history(std::int32_t sequence) { return histories_[sequence]; }
  std::uint32_t cells_used() const { return cells_.used(); }

  std::vector<compute::Step> steps;  // all that were submitted
  std::size_t most_in_flight = 0;
  int resets = 0;
  std::optional<std::uint64_t> fail_submit_at;

 private:
  // As a ring that waits until `ready` for others, or for its disk, without a limit but `deadline`.
  void work_idly(Instant ready, Instant deadline) {
    if (idle_work_ == nullptr || clock_.now() >= ready) return;
    const Instant start = idle_since_.value_or(clock_.now());
    idle_since_ = start;
    while (clock_.now() < std::min(ready, deadline)) {
      if (!idle_work_->work(IdleWork::kRing, clock_.now() - start)) break;
    }
    if (deadline < std::max(ready, clock_.now())) return;
    clock_.set(std::max(clock_.now(), ready));
    idle_work_->ended(IdleWork::kRing, clock_.now() - start);
    idle_since_.reset();
  }

  const Options options_;
  ManualClock& clock_;
  IdleWork* idle_work_ = nullptr;
  std::optional<Instant> idle_since_;
  compute::KvCells cells_;
  Histories histories_;
  std::deque<std::pair<Finished, Instant>> queue_;
};

}  // namespace prima::generate

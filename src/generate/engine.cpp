#include "generate/engine.h"

#include <algorithm>
#include <cassert>
#include <vector>

namespace prima::generate {

namespace {

// How soon a Ctrl-C is noticed while a step travels.
constexpr Duration kCancelPoll = std::chrono::milliseconds(50);

compute::Step make_step(std::uint64_t id, std::span<const Part> parts) {
  compute::Step step;
  step.id = id;
  for (const Part& part : parts) {
    assert(!part.tokens.empty() && part.n_outputs <= part.tokens.size());
    const auto first = static_cast<std::int32_t>(part.sequence->size());
    for (std::size_t i = 0; i < part.tokens.size(); ++i) {
      if (i + part.n_outputs >= part.tokens.size()) step.outputs.push_back(step.n_tokens());
      step.sequences.push_back(part.sequence->id());
      step.positions.push_back(first + static_cast<std::int32_t>(i));
    }
  }
  return step;
}

}  // namespace

Engine::Engine(ring::Ring& ring, const EngineOptions& options, const Clock& clock)
    : ring_(ring),
      options_(options),
      clock_(clock),
      max_steps_in_flight_(std::max(1u, ring.describe().max_steps_in_flight)),
      cells_(options.n_ctx) {}

void Engine::truncate(Sequence& sequence, std::size_t n) {
  assert(n <= sequence.size());
  if (n == sequence.size()) return;
  kv_operations_.push_back({.kind = compute::KvOperation::Kind::remove,
                            .sequence = sequence.id(),
                            .target = 0,
                            .from = static_cast<std::int32_t>(n),
                            .to = static_cast<std::int32_t>(sequence.size())});
  sequence.tokens_.resize(n);
}

void Engine::copy_prefix(const Sequence& source, Sequence& target, std::size_t n) {
  assert(n <= source.size() && target.size() == 0);
  if (n == 0) return;
  kv_operations_.push_back({.kind = compute::KvOperation::Kind::copy,
                            .sequence = source.id(),
                            .target = target.id(),
                            .from = 0,
                            .to = static_cast<std::int32_t>(n)});
  target.tokens_.assign(source.tokens_.begin(),
                        source.tokens_.begin() + static_cast<std::ptrdiff_t>(n));
}

std::uint32_t Engine::free_cells() const {
  return cells_.size() - cells_.used_after(kv_operations_);
}

Result<std::uint64_t> Engine::submit(std::span<const Part> parts, bool embeddings) {
  compute::Step step = make_step(next_id_, parts);
  step.embeddings = embeddings;
  std::vector<text::Token> tokens;
  tokens.reserve(step.n_tokens());
  step.kv_operations = kv_operations_;
  for (const Part& part : parts) {
    tokens.insert(tokens.end(), part.tokens.begin(), part.tokens.end());
  }
  assert(tokens.size() <= options_.max_tokens);

  PRIMA_RETURN_IF_ERROR(cells_.place(step));
  PRIMA_RETURN_IF_ERROR(ring_.submit(step, tokens, clock_.now() + options_.step_timeout));
  PRIMA_RETURN_IF_ERROR(cells_.apply(step));
  kv_operations_.clear();
  for (const Part& part : parts) {
    Sequence& sequence = *part.sequence;
    sequence.tokens_.insert(sequence.tokens_.end(), part.tokens.begin(), part.tokens.end());
  }
  return next_id_++;
}

Result<ring::Ring::Finished> Engine::next(const std::function<bool()>& cancelled) {
  const Instant limit = clock_.now() + options_.step_timeout;
  for (;;) {
    if (cancelled && cancelled()) return fail(ErrorCode::cancelled, "Cancelled");
    const Instant deadline = cancelled ? std::min(limit, clock_.now() + kCancelPoll) : limit;
    auto finished = ring_.next(deadline);
    const bool waited_too_long = clock_.now() >= limit;
    if (finished || finished.error().code != ErrorCode::deadline_exceeded || waited_too_long) {
      return finished;
    }
  }
}

bool Engine::drain(Duration limit) {
  const Instant deadline = clock_.now() + limit;
  while (ring_.in_flight() > 0) {
    if (!ring_.next(deadline)) return false;
  }
  return true;
}

Status Engine::reset() {
  cells_.clear();
  kv_operations_.clear();
  return ring_.reset(clock_.now() + options_.step_timeout);
}

}  // namespace prima::generate

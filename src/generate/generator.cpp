#include "generate/generator.h"

#include <optional>
#include <utility>

namespace prima::generate {

namespace {

// After a Ctrl-C the steps in flight are waited for, so that the conversation's keys and values
// stay of use; a ring that is slower than this is emptied instead.
constexpr Duration kDrainLimit = std::chrono::seconds(3);

}  // namespace

Result<Answer> generate(Batcher& batcher, text::Sampler sampler, Request request,
                        const Clock& clock, const std::function<bool()>& cancelled) {
  std::optional<Result<Answer>> result;
  PRIMA_ASSIGN_OR_RETURN(const Batcher::Id id,
                         batcher.add(std::move(request), std::move(sampler),
                                     [&](Result<Answer> answer) { result = std::move(answer); }));
  Status ring;
  while (!result && ring) {
    if (cancelled && cancelled()) {
      batcher.cancel(id);
    } else {
      ring = batcher.work(cancelled);
    }
  }
  const Instant limit = clock.now() + kDrainLimit;
  while (ring && batcher.steps_in_flight() > 0 && clock.now() < limit) {
    ring = batcher.work([&] { return clock.now() >= limit; });
  }
  // Where the ring is lost this fails too, and the answer's error says why.
  if (!ring || batcher.steps_in_flight() > 0) static_cast<void>(batcher.forget());
  return std::move(*result);
}

}  // namespace prima::generate

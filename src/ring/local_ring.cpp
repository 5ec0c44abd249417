#include "ring/local_ring.h"

#include "base/log.h"
#include "ring/waterfall.h"

namespace prima::ring {

Duration StepTimings::travelling() const {
  Duration explained = output;
  for (const HopTiming& hop : hops) {
    explained += hop.waiting + hop.reading + hop.computing + hop.sending;
  }
  return total > explained ? total - explained : Duration{};
}

LocalRing::LocalRing(std::unique_ptr<compute::Executor> executor, std::uint32_t n_layer,
                     std::uint32_t max_tokens, std::string device_name, const Clock& clock)
    : executor_(std::move(executor)),
      layers_{0, n_layer},
      max_tokens_(max_tokens),
      device_name_(std::move(device_name)),
      clock_(clock) {}

Status LocalRing::submit(const compute::Step& step, std::span<const std::int32_t> tokens, Instant) {
  const Instant started = clock_.now();
  PRIMA_RETURN_IF_ERROR(executor_->embed(tokens, hidden_));
  PRIMA_RETURN_IF_ERROR(executor_->begin(step));
  const Instant embedded = clock_.now();
  const Duration read_before = executor_->weight_reads().waited;
  PRIMA_RETURN_IF_ERROR(executor_->run(layers_, step, hidden_));
  const Duration reading = executor_->weight_reads().waited - read_before;
  const Instant computed = clock_.now();
  Finished finished{.step_id = step.id, .logits = {}, .timings = {}};
  if (!step.outputs.empty()) {
    PRIMA_RETURN_IF_ERROR(step.embeddings ? executor_->embeddings(hidden_, finished.logits)
                                          : executor_->logits(hidden_, finished.logits));
  }
  const Instant ended = clock_.now();
  finished.timings.hops.push_back({.device = 0,
                                   .layers = layers_,
                                   .waiting = embedded - started,
                                   .reading = reading,
                                   .computing = computed - embedded - reading});
  finished.timings.output = ended - computed;
  finished.timings.total = ended - started;
  if (log::is_verbose()) {
    log::debug("{}", waterfall(step.id, step.n_tokens(), finished.timings, {&device_name_, 1}));
  }
  finished_.push_back(std::move(finished));
  return {};
}

Result<Ring::Finished> LocalRing::next(Instant) {
  if (finished_.empty()) return fail(ErrorCode::invalid_argument, "No step is in flight");
  Finished finished = std::move(finished_.front());
  finished_.pop_front();
  return finished;
}

Status LocalRing::reset(Instant) {
  finished_.clear();
  executor_->clear();
  executor_->rest();
  return {};
}

RingDescription LocalRing::describe() const {
  return {.devices = {{.name = device_name_,
                       .address = "",
                       .state = "serving",
                       .windows = {layers_},
                       .memory = executor_->memory()}},
          .rounds = 1,
          .max_steps_in_flight = 1,
          .max_tokens = max_tokens_};
}

}  // namespace prima::ring

#include "generate/batcher.h"

#include <algorithm>
#include <cassert>
#include <string>
#include <utility>

#include "base/log.h"
#include "generate/embedding_pool.h"

namespace prima::generate {

namespace {

// How much longer a step of those who decode may take for pieces of prompts that ride along: half
// of the ring's time goes to each then.
constexpr double kPrefillSlowdown = 2.0;

// Smaller pieces cost nearly as much as these: a pass over the weights.
constexpr std::uint32_t kLeastPiece = 16;

// Where steps are pipelined over devices, a prompt is cut into two pieces for each, but not
// smaller.
constexpr std::uint32_t kLeastPipelinedPiece = 64;

// Cells kept for an answer's first tokens when it is admitted, so that it is not preempted at once.
constexpr std::uint32_t kAnswerCells = 32;

// A prompt waits for another one's computation to share at least so many tokens.
constexpr std::size_t kWorthWaitingFor = 16;

// A try whether drafting has begun to pay.
constexpr std::uint32_t kTriedDraft = 1;

}  // namespace

struct Batcher::Job {
  Job(Id job_id, Writer job_writer, Done job_done, Instant now)
      : id(job_id), writer(std::move(job_writer)), done(std::move(job_done)), added(now) {
    if (const auto pooling = writer.request().embedding) pool.emplace(*pooling);
  }

  const Id id;
  Writer writer;
  Done done;
  const Instant added;
  PrefixCache::Slot* slot = nullptr;  // while running, and until its steps are back
  std::uint32_t steps_in_flight = 0;
  bool waits_for_logits = false;
  bool admitted_before = false;
  bool ended = false;
  std::uint64_t last_turn = 0;
  DraftRecord drafts;
  std::optional<EmbeddingPool> pool;  // an embedding is wanted

  bool embeds() const { return pool.has_value(); }

  // REQUIRES: not waiting for logits.
  std::size_t n_unsubmitted() const { return writer.tokens().size() - slot->sequence.size(); }
  bool is_ready_to_decode() const {
    return !waits_for_logits && writer.has_begun() && n_unsubmitted() == 1;
  }
  bool is_prefilling() const { return !waits_for_logits && !is_ready_to_decode(); }

  // Tokens that the answer may still have; the largest number where nothing limits it.
  std::uint32_t tokens_left() const {
    const std::uint32_t most = writer.request().max_tokens;
    if (most == 0) return UINT32_MAX;
    const auto written = writer.tokens().size() - writer.request().prompt.size();
    return most - static_cast<std::uint32_t>(std::min<std::size_t>(written, most));
  }
};

std::uint32_t useful_decode_groups(const ring::RingDescription& ring) {
  std::uint32_t computing = 0;
  for (const ring::DeviceDescription& device : ring.devices) {
    if (device.memory.streamed > 0) return 1;
    if (!device.windows.empty()) ++computing;
  }
  return std::clamp(computing, 1u, std::max(1u, ring.max_steps_in_flight));
}

Batcher::Batcher(Engine& engine, const text::Tokenizer& tokenizer, const BatcherOptions& options,
                 const Clock& clock, Drafter* drafter)
    : engine_(engine),
      tokenizer_(tokenizer),
      options_(options),
      clock_(clock),
      drafter_(drafter),
      max_context_(options.max_context > 0 ? std::min(options.max_context, engine.n_ctx())
                                           : engine.n_ctx()),
      cache_(engine) {
  if (drafter_ == nullptr) return;
  ahead_.emplace(*drafter_);
  engine_.set_idle_work(&*ahead_);
}

Batcher::~Batcher() {
  if (ahead_) engine_.set_idle_work(nullptr);
}

Result<Batcher::Id> Batcher::add(Request request, text::Sampler sampler, Done done) {
  if (request.prompt.empty()) {
    return fail(ErrorCode::invalid_argument, "the prompt is empty", "Give at least one token");
  }
  if (request.prompt.size() > max_context_) {
    return fail(ErrorCode::invalid_argument,
                "the prompt has " + std::to_string(request.prompt.size()) +
                    " tokens, the context holds " + std::to_string(max_context_),
                "Shorten the prompt, or give a larger context with -c");
  }
  if (queue_.size() >= options_.max_queued) {
    return fail(ErrorCode::resource_exhausted,
                std::to_string(queue_.size()) + " requests are waiting already",
                "Try again a little later");
  }
  const Id id = next_id_++;
  totals_.prompt_tokens += request.prompt.size();
  queue_.push_back(
      std::make_shared<Job>(id, Writer(tokenizer_, std::move(sampler), std::move(request), clock_),
                            std::move(done), clock_.now()));
  return id;
}

void Batcher::cancel(Id id) {
  const auto is_it = [id](const JobPointer& job) { return job->id == id; };
  JobPointer job;
  if (const auto found = std::ranges::find_if(running_, is_it); found != running_.end()) {
    job = *found;
  } else if (const auto waiting = std::ranges::find_if(queue_, is_it); waiting != queue_.end()) {
    job = *waiting;
  }
  if (job) end(job, job->writer.end(FinishReason::cancelled));
}

// ---- Admission ---------------------------------------------------------------------------------

// In order, except that one who waits for a shared beginning holds nobody up.
void Batcher::admit() {
  for (std::size_t i = 0; i < queue_.size() && running_.size() < options_.max_running;) {
    const JobPointer job = queue_[i];
    const Admission admission = admit(job);
    if (admission == Admission::not_yet_and_none_after_it) return;
    if (admission == Admission::later) {
      ++i;
    } else {
      queue_.erase(queue_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
}

Batcher::Admission Batcher::admit(const JobPointer& job) {
  const std::vector<text::Token>& tokens = job->writer.tokens();
  // What was computed before left no states.
  PrefixCache::Match match = job->embeds() ? PrefixCache::Match{} : cache_.find(tokens);
  if (!job->embeds() && comes_soon(*job, match.n)) return Admission::later;

  const auto fits = [&] {
    const std::uint64_t answer = std::min<std::uint64_t>(
        {kAnswerCells, job->tokens_left(),
         max_context_ - std::min<std::size_t>(tokens.size(), max_context_)});
    return engine_.free_cells() >= promised_cells() + tokens.size() - match.n + answer;
  };
  while (!fits()) {
    if (cache_.evict_one(match.slot)) continue;
    if (!running_.empty() || match.slot == nullptr || match.slot->in_use) break;
    match = {};  // alone, and still: what is left of another conversation goes too
  }
  if (!fits()) return Admission::not_yet_and_none_after_it;
  job->slot = cache_.take(match);
  if (job->slot == nullptr) return Admission::not_yet_and_none_after_it;
  if (!std::exchange(job->admitted_before, true)) {
    Statistics& statistics = job->writer.statistics();
    statistics.n_reused = static_cast<std::uint32_t>(match.n);
    statistics.queued = clock_.now() - job->added;
    totals_.reused_tokens += match.n;
  }
  const auto younger = [&](const JobPointer& other) { return other->id > job->id; };
  running_.insert(std::ranges::find_if(running_, younger), job);
  return Admission::admitted;
}

// Whether a prompt that is being computed will soon give the job much more than is there now.
bool Batcher::comes_soon(const Job& job, std::size_t n_shared_now) const {
  const std::span<const text::Token> prompt = job.writer.tokens();
  return std::ranges::any_of(running_, [&](const JobPointer& other) {
    const std::size_t n =
        std::min(common_prefix(other->writer.tokens(), prompt), prompt.size() - 1);
    return n >= n_shared_now + kWorthWaitingFor && n > other->slot->sequence.size();
  });
}

// Cells that those running have been admitted with and not taken yet.
std::uint64_t Batcher::promised_cells() const {
  std::uint64_t promised = 0;
  for (const JobPointer& job : running_) {
    const std::uint32_t answer = std::min(kAnswerCells, job->tokens_left());
    promised += answer + (job->waits_for_logits ? 0 : job->n_unsubmitted());
  }
  return promised;
}

// ---- Steps -------------------------------------------------------------------------------------

std::uint32_t Batcher::count_decoding() const {
  return static_cast<std::uint32_t>(std::ranges::count_if(running_, [](const JobPointer& job) {
    return job->writer.has_begun() && !job->is_prefilling();
  }));
}

Status Batcher::work(const std::function<bool()>& interrupted) {
  for (;;) {
    admit();
    const std::uint32_t most =
        count_decoding() > 0 ? std::max(1u, options_.decode_groups) : engine_.max_steps_in_flight();
    if (in_flight_.size() >= std::min(most, engine_.max_steps_in_flight())) break;
    auto started = start_step();
    if (!started) {
      fail_all(started.error());
      return tl::unexpected(started.error());
    }
    if (!*started) break;
  }
  if (in_flight_.empty()) return {};
  auto finished = engine_.next(interrupted);
  if (!finished && finished.error().code == ErrorCode::cancelled) return {};
  if (!finished) {
    fail_all(finished.error());
    return tl::unexpected(finished.error());
  }
  finish_step(std::move(*finished));
  return {};
}

Result<bool> Batcher::start_step() {
  ++turn_;
  StepInFlight step;
  step.embeddings = embeddings_are_next();
  if (!step.embeddings) {
    add_decoding(step);
    add_drafts(step);
  }
  add_prefill(step);
  if (step.parts.empty()) return false;

  std::vector<Part> parts;
  std::uint32_t n_outputs = 0;
  for (const JobPart& part : step.parts) {
    parts.push_back({.sequence = &part.job->slot->sequence,
                     .tokens = part.tokens,
                     .n_outputs = part.n_outputs});
    n_outputs += part.n_outputs;
  }
  step.all_outputs = !step.embeddings && n_outputs == step.n_tokens;
  PRIMA_ASSIGN_OR_RETURN(const std::uint64_t id, engine_.submit(parts, step.embeddings));
  embedded_last_ = step.embeddings;
  for (const JobPart& part : step.parts) {
    ++part.job->steps_in_flight;
    part.job->waits_for_logits = part.n_outputs > 0;
  }
  in_flight_[id] = std::move(step);
  return true;
}

bool Batcher::embeddings_are_next() const {
  bool wanted = false;
  bool others = false;
  for (const JobPointer& job : running_) {
    if (job->waits_for_logits) continue;
    (job->embeds() ? wanted : others) = true;
  }
  return wanted && !(others && embedded_last_);
}

// One token of each that waited longest, in as many steps as there are groups.
void Batcher::add_decoding(StepInFlight& step) {
  std::vector<JobPointer> ready;
  for (const JobPointer& job : running_) {
    if (job->is_ready_to_decode()) ready.push_back(job);
  }
  std::ranges::stable_sort(ready, {}, [](const JobPointer& job) { return job->last_turn; });
  const std::uint32_t groups = std::max(1u, options_.decode_groups);
  const std::uint32_t share =
      std::min((count_decoding() + groups - 1) / groups, engine_.max_tokens());
  for (const JobPointer& job : ready) {
    if (step.parts.size() >= share) return;
    if (job->slot == nullptr) continue;  // preempted for one before it
    if (!make_cells(job, step.n_tokens + 1)) {
      if (running_.size() == 1) end(job, job->writer.end(FinishReason::context_full));
      continue;
    }
    step.parts.push_back({job, {job->writer.tokens().back()}, 0, 1});
    ++step.n_tokens;
    job->last_turn = turn_;
  }
}

void Batcher::add_drafts(StepInFlight& step) {
  if (drafter_ == nullptr || step.parts.empty()) return;
  std::vector<JobPart*> parts;
  std::vector<double> acceptances;
  for (JobPart& part : step.parts) {
    if (part.job->drafts.paused()) continue;
    parts.push_back(&part);
    acceptances.push_back(part.job->drafts.acceptance());
  }
  if (parts.empty()) return;
  const std::uint32_t cells = engine_.free_cells();
  const std::uint32_t n_plain = step.n_tokens;
  std::uint32_t room = std::min(engine_.max_tokens(), cells) - n_plain;
  std::vector<Draft> drafts;
  std::vector<std::uint32_t> ready;
  for (const JobPart* part : parts) {
    drafts.push_back({part->job->slot->sequence.id(), part->job->writer.tokens(), 0, {}});
    ready.push_back(drafter_->n_ready(drafts.back()));
  }
  const DraftCosts costs{.step = decode_cost_,
                         .per_drafted_token = drafter_->cost_of_a_token(),
                         .most = drafter_->most(),
                         .room = room,
                         .ready = ready};
  std::vector<std::uint32_t> lengths(parts.size());
  choose_draft_lengths(n_plain, acceptances, costs, lengths);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    Job& job = *parts[i]->job;
    if (lengths[i] > 0) {
      job.drafts.pays();
    } else if (decode_cost_.estimate(n_plain)) {
      if (job.drafts.is_tried_again()) lengths[i] = kTriedDraft;
      job.drafts.pause();
    }
    const std::size_t history = job.writer.tokens().size();
    drafts[i].most = std::min<std::uint32_t>(
        {lengths[i], room, job.tokens_left() - 1,
         static_cast<std::uint32_t>(max_context_ - std::min<std::size_t>(history, max_context_))});
    room -= drafts[i].most;
  }
  if (const Status status = drafter_->draft(drafts); !status) {
    log::warn("Drafting failed: {}", status.error().message());
    return;
  }
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto& tokens = drafts[i].tokens;
    parts[i]->tokens.insert(parts[i]->tokens.end(), tokens.begin(), tokens.end());
    parts[i]->n_drafted = static_cast<std::uint32_t>(tokens.size());
    parts[i]->n_outputs = 1 + parts[i]->n_drafted;
    step.n_tokens += parts[i]->n_drafted;
    const std::uint32_t n_ahead = std::min(ready[i], parts[i]->n_drafted);
    totals_.drafted_ahead_tokens += n_ahead;
    log::debug("drafted {} tokens, {} of them ahead", parts[i]->n_drafted, n_ahead);
  }
  bet_on_drafts(parts, acceptances, costs, n_plain);
}

// While the step travels, as many tokens are guessed as the next would have if they cost nothing,
// and the one before them.
void Batcher::bet_on_drafts(std::span<JobPart* const> parts, std::span<const double> acceptances,
                            DraftCosts costs, std::uint32_t n_tokens) {
  costs.per_drafted_token = {};
  std::vector<std::uint32_t> lengths(parts.size());
  choose_draft_lengths(n_tokens, acceptances, costs, lengths);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const Job& job = *parts[i]->job;
    const std::size_t end = job.writer.tokens().size() + parts[i]->n_drafted + lengths[i];
    const bool goes_on = parts[i]->n_drafted + lengths[i] < job.tokens_left() && end < max_context_;
    if (lengths[i] == 0 || !goes_on) continue;
    ahead_->bet(job.slot->sequence.id(), parts[i]->n_drafted, acceptances[i], lengths[i] + 1);
  }
}

// How many tokens of prompts a step takes besides those of `n_decoding` answers.
std::uint32_t Batcher::prefill_budget(std::uint32_t n_decoding, std::uint32_t n_waiting) const {
  const std::uint32_t most = engine_.max_tokens();
  if (n_decoding == 0) {
    const std::uint32_t groups = std::min(options_.decode_groups, engine_.max_steps_in_flight());
    if (groups <= 1) return most;
    return std::min(most, std::max(kLeastPipelinedPiece, n_waiting / (2 * groups) + 1));
  }
  const auto plain = decode_cost_.estimate(n_decoding);
  std::uint32_t budget = kLeastPiece;
  if (!plain) return std::min(budget, most);
  for (std::uint32_t larger = 2 * budget; larger <= most; larger *= 2) {
    const auto cost = any_cost_.estimate(n_decoding + larger);
    // Sizes never tried are approached by doubling.
    if (!cost || n_decoding + larger > 2 * std::max(any_cost_.largest(), kLeastPiece)) break;
    if (seconds(*cost) > kPrefillSlowdown * seconds(*plain)) break;
    budget = larger;
  }
  return std::min(budget, most);
}

void Batcher::add_prefill(StepInFlight& step) {
  std::vector<JobPointer> waiting;
  std::uint32_t n_waiting = 0;
  for (const JobPointer& job : running_) {
    if (!job->is_prefilling() || job->embeds() != step.embeddings) continue;
    waiting.push_back(job);
    n_waiting += static_cast<std::uint32_t>(job->n_unsubmitted());
  }
  if (waiting.empty()) return;
  std::ranges::stable_sort(waiting, {}, [](const JobPointer& job) { return job->last_turn; });
  std::uint32_t room = engine_.max_tokens() - step.n_tokens;
  std::uint32_t budget = std::min(room, prefill_budget(count_decoding(), n_waiting));
  for (std::size_t i = 0; i < waiting.size() && budget > 0; ++i) {
    const JobPointer& job = waiting[i];
    if (job->slot == nullptr) continue;  // preempted for one before it
    const auto left = static_cast<std::uint32_t>(waiting.size() - i);
    const std::uint32_t share = std::max(kLeastPiece, (budget + left - 1) / left);
    auto n =
        std::min<std::uint32_t>({share, budget, static_cast<std::uint32_t>(job->n_unsubmitted())});
    if (!make_cells(job, step.n_tokens + n)) {
      n = std::min(n, engine_.free_cells() - std::min(engine_.free_cells(), step.n_tokens));
    }
    if (n == 0) continue;
    const auto rest = std::span(job->writer.tokens()).subspan(job->slot->sequence.size());
    const auto piece = rest.first(n);
    const std::uint32_t n_outputs = job->embeds() ? job->pool->n_needed(n) : n == rest.size();
    step.parts.push_back({job, {piece.begin(), piece.end()}, 0, n_outputs});
    step.n_tokens += n;
    budget -= n;
    job->last_turn = turn_;
  }
}

// Frees cells for a job until there are as many as wanted: what finished answers left goes first,
// then those that came after the job. False if that is not enough.
bool Batcher::make_cells(const JobPointer& job, std::uint32_t wanted) {
  while (engine_.free_cells() < wanted) {
    if (cache_.evict_one()) continue;
    const auto youngest = std::find_if(running_.rbegin(), running_.rend(), [&](const auto& other) {
      return other->id > job->id && other->steps_in_flight == 0 &&
             other->slot->sequence.size() > 0 &&
             other->last_turn != turn_;  // not in the step that is being made
    });
    if (youngest == running_.rend()) return false;
    const JobPointer given_up = *youngest;
    preempt(given_up);
  }
  return true;
}

void Batcher::preempt(const JobPointer& job) {
  ++totals_.preemptions;
  engine_.truncate(job->slot->sequence, 0);
  if (job->embeds()) job->pool->clear();
  leave_slot(*job);
  std::erase(running_, job);
  queue_.push_front(job);
}

// ---- Results -----------------------------------------------------------------------------------

void Batcher::finish_step(ring::Ring::Finished finished) {
  const auto entry = in_flight_.find(finished.step_id);
  assert(entry != in_flight_.end());
  const StepInFlight step = std::move(entry->second);
  in_flight_.erase(entry);
  observe(step, finished.timings);
  std::size_t n_rows = 0;
  for (const JobPart& part : step.parts) n_rows += part.n_outputs;
  const std::size_t width = n_rows == 0 ? 0 : finished.logits.size() / n_rows;
  std::span<const float> rows = finished.logits;
  for (const JobPart& part : step.parts) {
    const std::size_t n = part.n_outputs * width;
    --part.job->steps_in_flight;
    if (ahead_) ahead_->settle(part.job->slot->sequence.id());
    if (!part.job->ended && part.n_outputs > 0) {
      if (step.embeddings) {
        take_states(part, rows.first(n));
      } else {
        take_logits(part, rows.first(n));
      }
    }
    if (part.job->ended && part.job->steps_in_flight == 0) leave_slot(*part.job);
    rows = rows.subspan(n);
  }
}

void Batcher::take_states(const JobPart& part, std::span<const float> states) {
  Job& job = *part.job;
  job.pool->add(states, part.n_outputs);
  job.waits_for_logits = false;
  if (job.n_unsubmitted() == 0) end(part.job, job.writer.end(job.pool->result()));
}

void Batcher::take_logits(const JobPart& part, std::span<const float> logits) {
  Job& job = *part.job;
  const bool decoded = job.writer.has_begun();
  const std::size_t n_before = job.writer.tokens().size();
  const auto drafted = std::span(part.tokens).last(part.n_drafted);
  const auto accepted = job.writer.take(logits, drafted);
  totals_.generated_tokens += job.writer.tokens().size() - n_before;
  const std::uint32_t n_right = accepted ? *accepted : 0;
  engine_.truncate(job.slot->sequence, job.slot->sequence.size() - part.n_drafted + n_right);
  job.waits_for_logits = false;
  if (!accepted) return end(part.job, tl::unexpected(accepted.error()));
  totals_.drafted_tokens += part.n_drafted;
  totals_.accepted_tokens += n_right;
  if (decoded) job.drafts.observe(part.n_drafted, n_right);
  if (const auto reason = job.writer.finish()) {
    end(part.job, job.writer.end(*reason));
  } else if (job.writer.tokens().size() > max_context_) {
    end(part.job, job.writer.end(FinishReason::context_full));
  }
}

void Batcher::end(const JobPointer& given, Result<Answer> answer) {
  const JobPointer job = given;  // which may lie in what is erased here
  job->ended = true;
  std::erase(running_, job);
  std::erase(queue_, job);
  if (ahead_ && job->slot != nullptr) ahead_->settle(job->slot->sequence.id());
  if (job->slot != nullptr && job->steps_in_flight == 0) leave_slot(*job);
  const Done done = std::move(job->done);
  done(std::move(answer));
}

void Batcher::leave_slot(Job& job) {
  if (job.slot == nullptr) return;
  cache_.leave(*job.slot);
  job.slot = nullptr;
}

void Batcher::fail_all(const Error& error) {
  in_flight_.clear();
  if (ahead_) ahead_->settle_all();
  while (!running_.empty()) {
    running_.front()->steps_in_flight = 0;
    end(running_.front(), tl::unexpected(error));
  }
  while (!queue_.empty()) end(queue_.front(), tl::unexpected(error));
}

Status Batcher::forget() {
  assert(idle());
  in_flight_.clear();
  cache_.forget();
  return engine_.reset();
}

// What the step itself cost, without its waiting for other steps.
void Batcher::observe(const StepInFlight& step, const ring::StepTimings& timings) {
  ++totals_.steps;
  Duration cost = timings.total;
  for (const ring::HopTiming& hop : timings.hops) {
    cost -= hop.waiting;
    if (totals_.computing.size() <= hop.device) totals_.computing.resize(hop.device + 1);
    totals_.computing[hop.device] += hop.computing;
  }
  totals_.output_layer += timings.output;
  totals_.travelling += timings.travelling();
  (step.all_outputs ? decode_cost_ : any_cost_).observe(step.n_tokens, std::max(cost, Duration{1}));
}

BatcherStatistics Batcher::statistics() const {
  BatcherStatistics result = totals_;
  result.queued = static_cast<std::uint32_t>(queue_.size());
  result.running = static_cast<std::uint32_t>(running_.size());
  result.cells = engine_.n_ctx();
  result.free_cells = engine_.free_cells();
  if (ahead_) result.guessed_ahead_tokens = ahead_->guessed();
  return result;
}

}  // namespace prima::generate

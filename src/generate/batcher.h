// Several answers at once round one ring (continuous batching): who is computed when.
//
//                  admit(): cells suffice              its last known token is submitted
//     add() --> queued ------------------> prefilling ----------------------------------> decoding
//       |         ^                            |                                            |  ^  |
//       |         +------ preempt(): cells ran out, the youngest gives up its own ----------+  +--+
//       |                                                                          sampled: one
//       more
//     refused: too long, queue full              cancel(), end of the answer, error: `done`
//
// Steps: those decoding give one token each (and what was drafted after it), and pieces of prompts
// ride along, small enough that the step takes at most kPrefillSlowdown times as long. With
// `decode_groups` > 1 the decoding answers are dealt over so many steps, in flight at once on
// different devices. Turns are fair: who waited longest comes first, prompts share what there is.
//
// What a finished answer leaves in the KV cache stays as long as nobody needs the cells: a prompt
// that begins the same continues it (a conversation's next turn) or shares its cells (a system
// prompt). A prompt that begins like one being computed waits for that instead of computing it too.
//
// Embeddings are prompts that nothing is written after. Steps are either for answers or for
// embeddings, in turns where there are both.
//
// Thread-compatible; callbacks are called from within add(), cancel() and work(), and must not call
// back.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "generate/answer.h"
#include "generate/draft_length.h"
#include "generate/drafter.h"
#include "generate/engine.h"
#include "generate/guess_ahead.h"
#include "generate/prefix_cache.h"
#include "generate/step_cost.h"
#include "generate/writer.h"
#include "text/sampler.h"
#include "text/tokenizer.h"

namespace prima::generate {

struct BatcherOptions {
  std::uint32_t max_context = 0;  // of one sequence; 0: as many as the ring has cells
  std::uint32_t max_running = 32;
  std::uint32_t max_queued = 128;
  std::uint32_t decode_groups = 1;
};

// How many steps of decoding sequences a ring has use for: one for each device that computes, but
// only one where devices read weights from disk for every step.
std::uint32_t useful_decode_groups(const ring::RingDescription& ring);

struct BatcherStatistics {
  std::uint32_t queued = 0;
  std::uint32_t running = 0;
  std::uint32_t cells = 0;
  std::uint32_t free_cells = 0;  // what finished answers left counts as used

  // Since the beginning.
  std::uint64_t steps = 0;
  std::uint64_t prompt_tokens = 0;
  std::uint64_t reused_tokens = 0;
  std::uint64_t generated_tokens = 0;
  std::uint64_t drafted_tokens = 0;
  std::uint64_t accepted_tokens = 0;
  std::uint64_t guessed_ahead_tokens = 0;  // while the ring worked,
  std::uint64_t drafted_ahead_tokens = 0;  // and of drafted_tokens those that were these
  std::uint64_t preemptions = 0;
  std::vector<Duration> computing{};  // by device of the ring
  Duration output_layer{};            // at the head
  Duration travelling{};              // between devices, of all steps together
};

class Batcher {
 public:
  using Id = std::uint64_t;
  using Done = std::function<void(Result<Answer>)>;

  // All must outlive it. `drafter` may be null. It has the ring's idle work for itself.
  Batcher(Engine& engine, const text::Tokenizer& tokenizer, const BatcherOptions& options,
          const Clock& clock, Drafter* drafter = nullptr);
  ~Batcher();

  std::uint32_t max_context() const { return max_context_; }

  // Takes a request; `done` is called once, unless the Batcher is destroyed before. Fails with
  // invalid_argument (empty or too long, with the figures), resource_exhausted (queue full).
  Result<Id> add(Request request, text::Sampler sampler, Done done);

  // Ends an answer, with what it has, as FinishReason::cancelled; nothing if it has ended already.
  void cancel(Id id);

  // Nothing queued, nothing running. Steps may still be in flight.
  bool idle() const { return queue_.empty() && running_.empty(); }
  std::size_t steps_in_flight() const { return in_flight_.size(); }

  // Starts the steps that can be started, waits for one to finish, and works on its results.
  // `interrupted` is asked now and then while waiting, and ends the wait. Does nothing where there
  // is nothing to do. Fails if the ring does: then all answers have ended with the error, and
  // forget() is needed.
  Status work(const std::function<bool()>& interrupted = {});

  // Empties the KV cache everywhere. REQUIRES: idle().
  Status forget();

  BatcherStatistics statistics() const;

 private:
  struct Job;
  using JobPointer = std::shared_ptr<Job>;

  // One sequence's part in a step that is being made, or in flight.
  struct JobPart {
    JobPointer job;
    std::vector<text::Token> tokens;
    std::uint32_t n_drafted = 0;  // the last ones of tokens
    std::uint32_t n_outputs = 0;  // the last ones whose logits, or states, are wanted
  };
  struct StepInFlight {
    std::vector<JobPart> parts;
    std::uint32_t n_tokens = 0;
    bool all_outputs = false;
    bool embeddings = false;
  };

  enum class Admission { admitted, later, not_yet_and_none_after_it };
  void admit();
  Admission admit(const JobPointer& job);
  bool comes_soon(const Job& job, std::size_t n_shared_now) const;
  std::uint64_t promised_cells() const;

  // True if a step was started.
  Result<bool> start_step();
  void add_decoding(StepInFlight& step);
  void add_drafts(StepInFlight& step);
  void bet_on_drafts(std::span<JobPart* const> parts, std::span<const double> acceptances,
                     DraftCosts costs, std::uint32_t n_tokens);
  void add_prefill(StepInFlight& step);
  std::uint32_t prefill_budget(std::uint32_t n_decoding, std::uint32_t n_waiting) const;
  bool make_cells(const JobPointer& job, std::uint32_t wanted);
  void preempt(const JobPointer& job);
  std::uint32_t count_decoding() const;

  void finish_step(ring::Ring::Finished finished);
  bool embeddings_are_next() const;
  void take_states(const JobPart& part, std::span<const float> states);
  void take_logits(const JobPart& part, std::span<const float> logits);
  void end(const JobPointer& job, Result<Answer> answer);
  void leave_slot(Job& job);
  void fail_all(const Error& error);
  void observe(const StepInFlight& step, const ring::StepTimings& timings);

  Engine& engine_;
  const text::Tokenizer& tokenizer_;
  const BatcherOptions options_;
  const Clock& clock_;
  Drafter* const drafter_;
  const std::uint32_t max_context_;
  std::optional<GuessAhead> ahead_;  // where there is a drafter
  PrefixCache cache_;
  std::deque<JobPointer> queue_;
  std::vector<JobPointer> running_;  // the oldest first
  std::map<std::uint64_t, StepInFlight> in_flight_;
  StepCost decode_cost_;  // of steps whose every token's logits are wanted
  StepCost any_cost_;     // of steps with pieces of prompts
  BatcherStatistics totals_;
  std::uint64_t turn_ = 0;
  bool embedded_last_ = false;  // in the last step that was started
  Id next_id_ = 1;
};

}  // namespace prima::generate

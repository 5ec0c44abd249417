// What generation needs of the ring, at the head: it numbers steps, chooses the KV cells of their
// tokens and mirrors the table that every device keeps.
//
//     parts of one or several sequences --submit--> a step in the ring --next--> its logits
//
// Speculation and batching need nothing else: a part may want the logits of several tokens, a step
// may carry parts of several sequences, several steps may be in flight, and what sequences drop and
// share (truncate, copy_prefix) travels with the next step, whosever it is.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "compute/kv_cells.h"
#include "generate/sequence.h"
#include "ring/ring.h"

namespace prima::generate {

struct EngineOptions {
  std::uint32_t n_ctx = 4096;      // KV cells, as the ring was formed with
  std::uint32_t max_tokens = 512;  // of a step, likewise
  // How long a step may take. Lost devices are noticed by the ring, long before; this ends a wait
  // that nothing else does. A prompt's step of a model streamed from slow disks takes minutes.
  Duration step_timeout = std::chrono::minutes(30);
};

// One sequence's tokens in a step.
struct Part {
  Sequence* sequence = nullptr;
  std::span<const text::Token> tokens;  // follow those that the sequence has
  std::uint32_t n_outputs = 0;          // the logits of this many last ones are wanted
};

class Engine {
 public:
  // The ring and the clock must outlive the engine.
  Engine(ring::Ring& ring, const EngineOptions& options, const Clock& clock);

  std::uint32_t n_ctx() const { return options_.n_ctx; }
  std::uint32_t max_tokens() const { return options_.max_tokens; }
  std::uint32_t max_steps_in_flight() const { return max_steps_in_flight_; }
  std::size_t in_flight() const { return ring_.in_flight(); }

  // Drops all tokens but the first `n`. REQUIRES: n <= size(), no step of this sequence in flight.
  void truncate(Sequence& sequence, std::size_t n);

  // `target` begins with the first `n` tokens of `source`, in the same cells: nothing is computed
  // again. They may be on their way. REQUIRES: n <= source.size(), target is empty.
  void copy_prefix(const Sequence& source, Sequence& target, std::size_t n);

  // Cells for further tokens, once what was truncated is dropped.
  std::uint32_t free_cells() const;

  // Starts a step and adds the tokens to their sequences; its id. REQUIRES: at most max_tokens() in
  // all, at least one in each part, no sequence twice. Fails with resource_exhausted, changing
  // nothing, if the KV cells are too few. After any other failure only reset() helps.
  // `embeddings`: of the outputs not logits are wanted, but what these are made of.
  Result<std::uint64_t> submit(std::span<const Part> parts, bool embeddings = false);

  // The next finished step. `cancelled`, if given, is asked now and then while waiting. Fails with
  // cancelled (call again: nothing is lost), deadline_exceeded or what the ring reports.
  Result<ring::Ring::Finished> next(const std::function<bool()>& cancelled = {});

  // As Ring::set_idle_work().
  void set_idle_work(IdleWork* work) { ring_.set_idle_work(work); }

  // Waits for the steps in flight and drops their results: false if that takes longer than `limit`.
  bool drain(Duration limit);

  // Drops steps in flight and empties the KV cache everywhere. Forget all sequences
  // (Sequence::forget) whatever it returns.
  Status reset();

 private:
  ring::Ring& ring_;
  const EngineOptions options_;
  const Clock& clock_;
  const std::uint32_t max_steps_in_flight_;
  compute::KvCells cells_;
  std::vector<compute::KvOperation> kv_operations_;  // to be told with the next step
  std::uint64_t next_id_ = 1;
};

}  // namespace prima::generate

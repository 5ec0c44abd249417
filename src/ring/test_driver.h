// For tests: generates on a ring as src/generate does, several sequences at once, greedily.
#pragma once

#include <algorithm>
#include <map>
#include <vector>

#include "compute/kv_cells.h"
#include "ring/ring.h"

namespace prima::ring {

struct DriverSequence {
  std::vector<std::int32_t> prompt;
  std::uint32_t n_decode = 8;
};

struct DriverOptions {
  std::uint32_t micro_batch = 4;
  std::uint32_t n_ctx = 256;
  Duration step_timeout = std::chrono::seconds(60);
};

// What was generated, with all its logits, by sequence.
struct DriverResult {
  std::vector<std::vector<std::int32_t>> tokens;
  std::vector<std::vector<float>> logits;

  friend bool operator==(const DriverResult&, const DriverResult&) = default;
};

class RingDriver {
 public:
  RingDriver(Ring& ring, const Clock& clock, DriverOptions options = {})
      : ring_(ring), clock_(clock), options_(options), cells_(options.n_ctx) {}

  Result<DriverResult> generate(const std::vector<DriverSequence>& sequences) {
    result_ = {};
    result_.tokens.resize(sequences.size());
    result_.logits.resize(sequences.size());
    positions_.assign(sequences.size(), 0);
    cells_.clear();
    PRIMA_RETURN_IF_ERROR(ring_.reset(deadline()));
    for (std::size_t s = 0; s < sequences.size(); ++s) {
      const auto& prompt = sequences[s].prompt;
      for (std::size_t from = 0; from < prompt.size(); from += options_.micro_batch) {
        const std::size_t to = std::min(prompt.size(), from + options_.micro_batch);
        PRIMA_RETURN_IF_ERROR(
            submit(s, {prompt.begin() + from, prompt.begin() + to}, to == prompt.size()));
      }
    }
    while (ring_.in_flight() > 0) {
      PRIMA_ASSIGN_OR_RETURN(Ring::Finished finished, ring_.next(deadline()));
      last_timings = finished.timings;
      const std::size_t s = owners_.at(finished.step_id);
      owners_.erase(finished.step_id);
      if (finished.logits.empty()) continue;
      auto& logits = result_.logits[s];
      logits.insert(logits.end(), finished.logits.begin(), finished.logits.end());
      const auto best = std::max_element(finished.logits.begin(), finished.logits.end());
      const auto token = static_cast<std::int32_t>(best - finished.logits.begin());
      result_.tokens[s].push_back(token);
      if (result_.tokens[s].size() < sequences[s].n_decode) {
        PRIMA_RETURN_IF_ERROR(submit(s, {token}, true));
      }
    }
    return result_;
  }

  StepTimings last_timings;

 private:
  Instant deadline() const { return clock_.now() + options_.step_timeout; }

  Status submit(std::size_t s, std::vector<std::int32_t> tokens, bool wants_output) {
    compute::Step step;
    step.id = next_id_++;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      step.sequences.push_back(static_cast<std::int32_t>(s));
      step.positions.push_back(positions_[s]++);
    }
    if (wants_output) step.outputs = {static_cast<std::uint32_t>(tokens.size() - 1)};
    PRIMA_RETURN_IF_ERROR(cells_.place(step));
    PRIMA_RETURN_IF_ERROR(cells_.apply(step));
    owners_[step.id] = s;
    return ring_.submit(step, tokens, deadline());
  }

  Ring& ring_;
  const Clock& clock_;
  const DriverOptions options_;
  compute::KvCells cells_;
  DriverResult result_;
  std::vector<std::int32_t> positions_;
  std::map<std::uint64_t, std::size_t> owners_;
  std::uint64_t next_id_ = 1;
};

}  // namespace prima::ring

// Guesses with a smaller model, whole on this device: its likeliest tokens, one after another, for
// all answers of a step together. What it has computed of an answer it keeps, so that each guess
// costs the tokens that are new to it; and none where the answer went on as it had guessed before.
//
// Thread-compatible.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "compute/executor.h"
#include "generate/drafter.h"
#include "generate/engine.h"
#include "generate/sequence.h"
#include "model/model_file.h"
#include "ring/ring.h"
#include "text/tokenizer.h"

namespace prima::generate {

class ModelDrafter final : public Drafter {
 public:
  // `executor`: the threads, the cells and the KV type. Fails with invalid_argument where the two
  // vocabularies differ, and as loading a model does. The clock must outlive it.
  static Result<std::unique_ptr<ModelDrafter>> load(const std::filesystem::path& path,
                                                    const text::Tokenizer& target,
                                                    const compute::ExecutorOptions& executor,
                                                    const Clock& clock);

  Status draft(std::span<Draft> drafts) override;
  Status guess_further(std::span<const std::int32_t> sequences) override;
  std::uint32_t n_ready(const Draft& draft) const override;
  std::uint32_t most() const override;
  Duration cost_of_a_token() const override { return cost_; }

 private:
  ModelDrafter(model::ModelFile model, const Clock& clock)
      : model_(std::move(model)), clock_(clock) {}

  // A text as the draft model has it: computed, and what it likes best after that. Part of it may
  // be guessed.
  struct Known {
    Sequence sequence;
    std::optional<text::Token> next{};
  };

  Known& known(std::int32_t sequence) { return known_[static_cast<std::size_t>(sequence)]; }
  bool is_within_training(std::size_t n_tokens) const {
    return n_tokens <= model_.hyperparameters().n_ctx_train;
  }

  // Brings what is known to the drafts' histories, and what comes next.
  Status catch_up(std::span<Draft* const> drafts, std::span<const std::int32_t> keep);
  // Computes the next token of each, and what comes after it.
  Status extend(std::span<const std::int32_t> sequences);
  Status run(std::span<const Part> parts, std::span<Known* const> with_outputs);
  Status make_cells(std::uint32_t wanted, std::span<const std::int32_t> keep);

  const model::ModelFile model_;
  const Clock& clock_;
  std::unique_ptr<ring::Ring> ring_;
  std::unique_ptr<Engine> engine_;
  std::size_t n_vocab_ = 0;
  std::vector<Known> known_;  // by the target's sequence
  Duration cost_{};
  std::uint32_t times_measured_ = 0;
};

// Whether a draft's tokens mean the same in both. Fails with invalid_argument, naming what differs.
Status check_same_vocabulary(const text::Tokenizer& target, const text::Tokenizer& draft);

}  // namespace prima::generate

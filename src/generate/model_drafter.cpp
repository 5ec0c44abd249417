#include "generate/model_drafter.h"

#include <algorithm>
#include <string>
#include <utility>

#include "compute/kv_cells.h"

namespace prima::generate {

namespace {

// Each further token is right less often, and costs a pass over the draft model.
constexpr std::uint32_t kMost = 12;

}  // namespace

Status check_same_vocabulary(const text::Tokenizer& target, const text::Tokenizer& draft) {
  const auto differ = [](std::string what) {
    return fail(ErrorCode::invalid_argument,
                "the draft model's vocabulary differs from the model's: " + std::move(what),
                "Choose a draft model of the same family");
  };
  if (target.n_vocab() != draft.n_vocab()) {
    return differ(std::to_string(draft.n_vocab()) + " tokens against " +
                  std::to_string(target.n_vocab()));
  }
  for (text::Token token = 0; token < target.n_vocab(); ++token) {
    const std::string own = target.piece(token, /*render_special=*/true);
    const std::string other = draft.piece(token, /*render_special=*/true);
    if (own == other) continue;
    return differ("token " + std::to_string(token) + " is '" + other + "' against '" + own + "'");
  }
  return {};
}

Result<std::unique_ptr<ModelDrafter>> ModelDrafter::load(const std::filesystem::path& path,
                                                         const text::Tokenizer& target,
                                                         const compute::ExecutorOptions& executor,
                                                         const Clock& clock) {
  PRIMA_ASSIGN_OR_RETURN(auto model, model::ModelFile::open(path));
  PRIMA_ASSIGN_OR_RETURN(const auto tokenizer, text::Tokenizer::load(model.paths().front()));
  PRIMA_RETURN_IF_ERROR(check_same_vocabulary(target, tokenizer));
  std::unique_ptr<ModelDrafter> drafter(new ModelDrafter(std::move(model), clock));
  drafter->n_vocab_ = static_cast<std::size_t>(target.n_vocab());
  ring::RingOptions options;
  options.executor.n_ctx = executor.n_ctx;
  options.executor.max_tokens = executor.max_tokens;
  options.executor.kv_type = executor.kv_type;
  options.executor.n_threads = executor.n_threads;
  PRIMA_ASSIGN_OR_RETURN(drafter->ring_, ring::form_ring(drafter->model_, options));
  drafter->engine_ = std::make_unique<Engine>(
      *drafter->ring_, EngineOptions{.n_ctx = executor.n_ctx, .max_tokens = executor.max_tokens},
      clock);
  for (std::int32_t id = 0; id < compute::kMaxSequences; ++id) {
    drafter->known_.push_back({Sequence(id)});
  }
  return drafter;
}

std::uint32_t ModelDrafter::most() const { return kMost; }

Status ModelDrafter::draft(std::span<Draft> drafts) {
  std::vector<Draft*> wanted;
  std::vector<Draft*> behind;
  std::vector<std::int32_t> sequences;
  for (Draft& draft : drafts) {
    // A history beyond what the draft model was trained for gets no guesses.
    if (draft.most == 0 || !is_within_training(draft.history.size() + draft.most)) continue;
    wanted.push_back(&draft);
    sequences.push_back(draft.sequence);
    const Known& text = known(draft.sequence);
    if (const std::uint32_t n = n_ready(draft); n == 0) {
      behind.push_back(&draft);
    } else {
      const auto& tokens = text.sequence.tokens();
      draft.tokens.assign(tokens.begin() + static_cast<std::ptrdiff_t>(draft.history.size()),
                          tokens.end());
      draft.tokens.push_back(*text.next);
      draft.tokens.resize(std::min(n, draft.most));
    }
  }
  PRIMA_RETURN_IF_ERROR(catch_up(behind, sequences));
  for (;;) {
    std::erase_if(wanted, [](const Draft* draft) { return draft->tokens.size() >= draft->most; });
    if (wanted.empty()) return {};
    sequences.clear();
    for (const Draft* draft : wanted) sequences.push_back(draft->sequence);
    PRIMA_RETURN_IF_ERROR(make_cells(static_cast<std::uint32_t>(sequences.size()), sequences));
    PRIMA_RETURN_IF_ERROR(extend(sequences));
    for (Draft* draft : wanted) draft->tokens.push_back(*known(draft->sequence).next);
  }
}

std::uint32_t ModelDrafter::n_ready(const Draft& draft) const {
  const Known& text = known_[static_cast<std::size_t>(draft.sequence)];
  const auto& tokens = text.sequence.tokens();
  const std::size_t n = draft.history.size();
  if (!text.next || n > tokens.size() || common_prefix(tokens, draft.history) < n) return 0;
  return static_cast<std::uint32_t>(tokens.size() - n + 1);
}

Status ModelDrafter::guess_further(std::span<const std::int32_t> sequences) {
  const bool possible = std::ranges::all_of(sequences, [&](std::int32_t sequence) {
    const Known& text = known(sequence);
    return text.next && is_within_training(text.sequence.size() + 1);
  });
  if (!possible || engine_->free_cells() < sequences.size() ||
      engine_->max_tokens() < sequences.size()) {
    return fail(ErrorCode::resource_exhausted, "the draft model can't go on from here");
  }
  return extend(sequences);
}

Status ModelDrafter::catch_up(std::span<Draft* const> drafts, std::span<const std::int32_t> keep) {
  for (Draft* draft : drafts) {
    Known& text = known(draft->sequence);
    const std::size_t n_known =
        std::min(common_prefix(text.sequence.tokens(), draft->history), draft->history.size() - 1);
    engine_->truncate(text.sequence, n_known);
    text.next.reset();
  }
  std::vector<Draft*> waiting(drafts.begin(), drafts.end());
  while (!waiting.empty()) {
    std::vector<Part> parts;
    std::vector<Draft*> finished;
    std::vector<Known*> with_outputs;
    std::uint32_t room = engine_->max_tokens();
    for (Draft* draft : waiting) {
      if (room == 0) break;
      Known& text = known(draft->sequence);
      const auto rest = draft->history.subspan(text.sequence.size());
      const auto n = std::min<std::uint32_t>(room, static_cast<std::uint32_t>(rest.size()));
      const bool last = n == rest.size();
      parts.push_back({&text.sequence, rest.first(n), last ? 1u : 0u});
      if (last) {
        finished.push_back(draft);
        with_outputs.push_back(&text);
      }
      room -= n;
    }
    PRIMA_RETURN_IF_ERROR(make_cells(engine_->max_tokens() - room, keep));
    PRIMA_RETURN_IF_ERROR(run(parts, with_outputs));
    for (Draft* draft : finished) {
      draft->tokens.push_back(*known(draft->sequence).next);
      std::erase(waiting, draft);
    }
  }
  return {};
}

Status ModelDrafter::extend(std::span<const std::int32_t> sequences) {
  std::vector<Part> parts;
  std::vector<Known*> texts;
  for (const std::int32_t sequence : sequences) {
    Known& text = known(sequence);
    parts.push_back({&text.sequence, {&*text.next, 1}, 1});
    texts.push_back(&text);
  }
  const Instant started = clock_.now();
  PRIMA_RETURN_IF_ERROR(run(parts, texts));
  const Duration each = (clock_.now() - started) / sequences.size();
  // The first also builds its graph; the second replaces it.
  cost_ = ++times_measured_ <= 2 ? each : (4 * cost_ + each) / 5;
  return {};
}

// Finds what comes after each of `with_outputs`, which are those parts that want logits.
Status ModelDrafter::run(std::span<const Part> parts, std::span<Known* const> with_outputs) {
  PRIMA_RETURN_IF_ERROR(engine_->submit(parts));
  for (Known* text : with_outputs) text->next.reset();
  PRIMA_ASSIGN_OR_RETURN(const ring::Ring::Finished finished, engine_->next());
  if (finished.logits.size() != with_outputs.size() * n_vocab_) {
    return fail(ErrorCode::internal,
                "the draft model returned " + std::to_string(finished.logits.size()) + " logits");
  }
  for (std::size_t i = 0; i < with_outputs.size(); ++i) {
    const auto row = finished.logits.begin() + static_cast<std::ptrdiff_t>(i * n_vocab_);
    const auto likeliest = std::max_element(row, row + static_cast<std::ptrdiff_t>(n_vocab_));
    with_outputs[i]->next = static_cast<text::Token>(likeliest - row);
  }
  return {};
}

// Answers that draft nothing now lose what is known of them.
Status ModelDrafter::make_cells(std::uint32_t wanted, std::span<const std::int32_t> keep) {
  for (Known& text : known_) {
    if (engine_->free_cells() >= wanted) return {};
    if (std::ranges::find(keep, text.sequence.id()) != keep.end()) continue;
    engine_->truncate(text.sequence, 0);
    text.next.reset();
  }
  if (engine_->free_cells() >= wanted) return {};
  return fail(ErrorCode::resource_exhausted, "the draft model's context is full");
}

}  // namespace prima::generate

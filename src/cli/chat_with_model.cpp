// chat_partner.h: a model in this process, alone or at the head of a ring.
#include <optional>
#include <utility>

#include "cli/chat_partner.h"
#include "cli/run_answer.h"
#include "cli/run_prompt.h"
#include "generate/batcher.h"
#include "generate/engine.h"
#include "model/model_file.h"
#include "ring/ring.h"

namespace prima::cli {

namespace {

class ModelPartner final : public ChatPartner {
 public:
  ModelPartner(model::ModelFile model, text::Tokenizer tokenizer, text::ChatTemplate chat_template,
               const RunOptions& options, InterruptGuard& interrupt, const Clock& clock)
      : model_(std::move(model)),
        tokenizer_(std::move(tokenizer)),
        chat_template_(std::move(chat_template)),
        options_(options),
        interrupt_(interrupt),
        clock_(clock),
        name_(model_.name()) {}

  Status load() {
    PRIMA_ASSIGN_OR_RETURN(n_ctx_, context_size(options_.context, model_.hyperparameters()));
    PRIMA_ASSIGN_OR_RETURN(sampler_, sampler_options(options_));
    PRIMA_RETURN_IF_ERROR(text::Sampler::create(tokenizer_, sampler_));
    const ring::RingOptions formation = ring_options(options_.devices, n_ctx_, model_);
    PRIMA_ASSIGN_OR_RETURN(ring_, form_ring_visibly(model_, formation, interrupt_));
    PRIMA_ASSIGN_OR_RETURN(drafter_,
                           make_drafter(options_.draft, tokenizer_, formation.executor, clock_));
    engine_.emplace(
        *ring_,
        generate::EngineOptions{.n_ctx = n_ctx_, .max_tokens = ring_->describe().max_tokens},
        clock_);
    batcher_.emplace(*engine_, tokenizer_,
                     generate::BatcherOptions{
                         .max_context = n_ctx_,
                         .decode_groups = generate::useful_decode_groups(ring_->describe())},
                     clock_, drafter_.get());
    return {};
  }

  const std::string& name() const override { return name_; }

  Result<ChatReply> reply(std::span<const text::ChatMessage> messages) override {
    PRIMA_ASSIGN_OR_RETURN(std::vector<text::Token> prompt,
                           chat_prompt(tokenizer_, chat_template_, messages));
    PRIMA_RETURN_IF_ERROR(check_fits(prompt.size(), n_ctx_, model_.hyperparameters().n_ctx_train));
    const AnswerContext context{options_, tokenizer_, sampler_, *batcher_, interrupt_, clock_};
    PRIMA_ASSIGN_OR_RETURN(const generate::Answer answer, write_answer(context, std::move(prompt)));
    const generate::Statistics& statistics = answer.statistics;
    return ChatReply{.text = answer.text,
                     .n_prompt = statistics.n_prompt,
                     .n_reused = statistics.n_reused,
                     .n_generated = statistics.n_generated,
                     .n_drafted = statistics.n_drafted,
                     .n_accepted = statistics.n_accepted,
                     .time_to_first_token = statistics.time_to_first_token,
                     .time_per_output_token = statistics.time_per_output_token()};
  }

 private:
  const model::ModelFile model_;
  const text::Tokenizer tokenizer_;
  const text::ChatTemplate chat_template_;
  const RunOptions& options_;
  InterruptGuard& interrupt_;
  const Clock& clock_;
  const std::string name_;
  std::uint32_t n_ctx_ = 0;
  text::SamplerOptions sampler_;
  std::unique_ptr<ring::Ring> ring_;
  std::unique_ptr<generate::Drafter> drafter_;
  std::optional<generate::Engine> engine_;
  std::optional<generate::Batcher> batcher_;
};

}  // namespace

Result<std::unique_ptr<ChatPartner>> load_model(const RunOptions& options,
                                                InterruptGuard& interrupt, const Clock& clock) {
  PRIMA_ASSIGN_OR_RETURN(auto model, model::ModelFile::open(options.model));
  PRIMA_ASSIGN_OR_RETURN(auto tokenizer, text::Tokenizer::load(model.paths().front()));
  PRIMA_ASSIGN_OR_RETURN(auto chat_template,
                         choose_template(options, tokenizer, /*interactive=*/true));
  auto partner = std::make_unique<ModelPartner>(
      std::move(model), std::move(tokenizer), std::move(*chat_template), options, interrupt, clock);
  PRIMA_RETURN_IF_ERROR(partner->load());
  return partner;
}

}  // namespace prima::cli

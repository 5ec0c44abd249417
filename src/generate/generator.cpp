#include "generate/generator.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "text/text_stream.h"

namespace prima::generate {

namespace {

// After a Ctrl-C the steps in flight are waited for, so that the conversation's keys and values
// stay of use; a ring that is slower than this is emptied instead.
constexpr Duration kDrainLimit = std::chrono::seconds(3);

// Everything that changes while one answer is written.
class Writer {
 public:
  Writer(Engine& engine, const text::Tokenizer& tokenizer, Sequence& sequence,
         text::Sampler& sampler, const Request& request, const Clock& clock)
      : engine_(engine),
        tokenizer_(tokenizer),
        sequence_(sequence),
        sampler_(sampler),
        request_(request),
        clock_(clock),
        started_(clock.now()),
        text_(request.stops) {}

  Status write() {
    PRIMA_ASSIGN_OR_RETURN(std::vector<float> logits, prefill());
    for (;;) {
      PRIMA_ASSIGN_OR_RETURN(const text::Token token, sampler_.sample(logits));
      PRIMA_RETURN_IF_ERROR(sampler_.accept(token));
      count_token();
      if (const auto reason = take(token)) {
        finish(*reason);
        return {};
      }
      PRIMA_RETURN_IF_ERROR(submit({&token, 1}, 1));
      PRIMA_ASSIGN_OR_RETURN(ring::Ring::Finished finished, next());
      logits = std::move(finished.logits);
    }
  }

  void finish(FinishReason reason) {
    answer_.finish = reason;
    show(text_.finish());
    if (text_.stopped()) answer_.finish = FinishReason::stop_string;
  }

  Answer& answer() { return answer_; }
  bool ring_failed() const { return ring_failed_; }

 private:
  // Brings the sequence to the prompt; the logits of its last token.
  Result<std::vector<float>> prefill() {
    const std::span<const text::Token> prompt = request_.prompt;
    // The last token is computed in any case: its logits are needed.
    const std::size_t n_reused =
        std::min(common_prefix(sequence_.tokens(), prompt), prompt.size() - 1);
    sequence_.truncate(n_reused);
    sampler_.accept_prompt(prompt);
    answer_.statistics.n_prompt = static_cast<std::uint32_t>(prompt.size());
    answer_.statistics.n_reused = static_cast<std::uint32_t>(n_reused);

    std::optional<std::uint64_t> last_step;
    for (;;) {
      while (!last_step && engine_.in_flight() < engine_.max_steps_in_flight()) {
        if (request_.cancelled && request_.cancelled()) {
          return fail(ErrorCode::cancelled, "Cancelled");
        }
        const auto rest = prompt.subspan(sequence_.size());
        const std::size_t n = std::min<std::size_t>(rest.size(), engine_.max_tokens());
        const bool last = n == rest.size();
        PRIMA_ASSIGN_OR_RETURN(const std::uint64_t id, submit(rest.first(n), last ? 1 : 0));
        if (last) last_step = id;
      }
      PRIMA_ASSIGN_OR_RETURN(ring::Ring::Finished finished, next());
      if (finished.step_id == last_step) return std::move(finished.logits);
    }
  }

  Result<std::uint64_t> submit(std::span<const text::Token> tokens, std::uint32_t n_outputs) {
    const Part part{&sequence_, tokens, n_outputs};
    auto id = engine_.submit({&part, 1});
    ring_failed_ |= !id;
    return id;
  }

  Result<ring::Ring::Finished> next() {
    auto finished = engine_.next(request_.cancelled);
    ring_failed_ |= !finished && finished.error().code != ErrorCode::cancelled;
    return finished;
  }

  void count_token() {
    const Duration elapsed = clock_.now() - started_;
    Statistics& statistics = answer_.statistics;
    if (++statistics.n_generated == 1) statistics.time_to_first_token = elapsed;
    statistics.decoding = elapsed - statistics.time_to_first_token;
  }

  // Adds a sampled token to the answer; why it is the last, if it is.
  std::optional<FinishReason> take(text::Token token) {
    if (!request_.ignore_end && tokenizer_.is_end_of_generation(token)) return FinishReason::end;
    answer_.tokens.push_back(token);
    show(text_.push(tokenizer_.piece(token)));
    if (text_.stopped()) return FinishReason::stop_string;
    if (request_.max_tokens > 0 && answer_.tokens.size() >= request_.max_tokens) {
      return FinishReason::max_tokens;
    }
    if (sequence_.size() >= engine_.n_ctx()) return FinishReason::context_full;
    if (request_.cancelled && request_.cancelled()) return FinishReason::cancelled;
    return std::nullopt;
  }

  void show(const std::string& text) {
    answer_.text += text;
    if (!text.empty() && request_.on_text) request_.on_text(text);
  }

  Engine& engine_;
  const text::Tokenizer& tokenizer_;
  Sequence& sequence_;
  text::Sampler& sampler_;
  const Request& request_;
  const Clock& clock_;
  const Instant started_;
  text::TextStream text_;
  Answer answer_;
  bool ring_failed_ = false;
};

void forget_all(Engine& engine, Sequence& sequence) {
  // Where the ring is lost this fails too, and the first error says why.
  static_cast<void>(engine.reset());
  sequence.forget();
}

}  // namespace

const char* to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::end: return "end";
    case FinishReason::stop_string: return "stop_string";
    case FinishReason::max_tokens: return "max_tokens";
    case FinishReason::context_full: return "context_full";
    case FinishReason::cancelled: return "cancelled";
  }
  return "unknown";
}

Duration Statistics::time_per_output_token() const {
  return n_generated > 1 ? decoding / (n_generated - 1) : Duration{};
}

double Statistics::prefill_tokens_per_second() const {
  return time_to_first_token > Duration{} ? (n_prompt - n_reused) / seconds(time_to_first_token)
                                          : 0.0;
}

double Statistics::decode_tokens_per_second() const {
  return n_generated > 1 && decoding > Duration{} ? (n_generated - 1) / seconds(decoding) : 0.0;
}

Result<Answer> generate(Engine& engine, const text::Tokenizer& tokenizer, Sequence& sequence,
                        text::Sampler& sampler, const Request& request, const Clock& clock) {
  if (request.prompt.empty()) {
    return fail(ErrorCode::invalid_argument, "the prompt is empty", "Give at least one token");
  }
  if (request.prompt.size() > engine.n_ctx()) {
    return fail(ErrorCode::invalid_argument,
                "the prompt has " + std::to_string(request.prompt.size()) +
                    " tokens, the context holds " + std::to_string(engine.n_ctx()),
                "Shorten the prompt, or give a larger context with -c");
  }
  Writer writer(engine, tokenizer, sequence, sampler, request, clock);
  const Status status = writer.write();
  if (writer.ring_failed() || !engine.drain(kDrainLimit)) forget_all(engine, sequence);
  if (!status && status.error().code != ErrorCode::cancelled) {
    return tl::unexpected(status.error());
  }
  if (!status) writer.finish(FinishReason::cancelled);
  return std::move(writer.answer());
}

}  // namespace prima::generate

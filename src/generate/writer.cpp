#include "generate/writer.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <string>

namespace prima::generate {

Writer::Writer(const text::Tokenizer& tokenizer, text::Sampler sampler, Request request,
               const Clock& clock)
    : tokenizer_(tokenizer),
      clock_(clock),
      started_(clock.now()),
      sampler_(std::move(sampler)),
      request_(std::move(request)),
      tokens_(request_.prompt),
      text_(request_.stops) {
  sampler_.accept_prompt(request_.prompt);
  answer_.statistics.n_prompt = static_cast<std::uint32_t>(request_.prompt.size());
}

Result<std::uint32_t> Writer::take(std::span<const float> logits,
                                   std::span<const text::Token> drafted) {
  const auto n_vocab = static_cast<std::size_t>(tokenizer_.n_vocab());
  if (logits.size() != (1 + drafted.size()) * n_vocab) {
    return fail(ErrorCode::internal,
                "the ring returned " + std::to_string(logits.size()) + " logits");
  }
  answer_.statistics.n_drafted += static_cast<std::uint32_t>(drafted.size());
  for (std::size_t i = 0;; ++i) {
    const auto row = logits.subspan(i * n_vocab, n_vocab);
    PRIMA_ASSIGN_OR_RETURN(const text::Token token, sampler_.sample(row));
    PRIMA_RETURN_IF_ERROR(sampler_.accept(token));
    const bool as_drafted = i < drafted.size() && token == drafted[i];
    if (as_drafted) ++answer_.statistics.n_accepted;
    finish_ = add(token, row);
    if (!as_drafted || finish_) return static_cast<std::uint32_t>(as_drafted ? i + 1 : i);
  }
}

// Why the answer ends with the token, if it does.
std::optional<FinishReason> Writer::add(text::Token token, std::span<const float> logits) {
  const Duration elapsed = clock_.now() - started_;
  Statistics& statistics = answer_.statistics;
  if (++statistics.n_generated == 1) statistics.time_to_first_token = elapsed;
  statistics.decoding = elapsed - statistics.time_to_first_token;

  tokens_.push_back(token);
  if (!request_.ignore_end && tokenizer_.is_end_of_generation(token)) return FinishReason::end;
  answer_.tokens.push_back(request_.top_probabilities
                               ? with_probabilities(token, logits, *request_.top_probabilities)
                               : AnswerToken{.token = token});
  show(text_.push(tokenizer_.piece(token, request_.shown_specials.contains(token))),
       /*at_end=*/false);
  if (text_.stopped()) return FinishReason::stop_string;
  if (request_.max_tokens > 0 && answer_.tokens.size() >= request_.max_tokens) {
    return FinishReason::max_tokens;
  }
  return std::nullopt;
}

Answer Writer::end(FinishReason reason) {
  answer_.finish = reason;
  show(text_.finish(), /*at_end=*/true);
  if (text_.stopped()) answer_.finish = FinishReason::stop_string;
  return std::move(answer_);
}

Answer Writer::end(std::vector<float> embedding) {
  answer_.embedding = std::move(embedding);
  answer_.statistics.time_to_first_token = clock_.now() - started_;
  return end(FinishReason::end);
}

void Writer::show(const std::string& text, bool at_end) {
  answer_.text += text;
  const bool tokens_left = at_end && n_shown_ < answer_.tokens.size();
  if (text.empty() && !tokens_left) return;
  const auto fresh = std::span(answer_.tokens).subspan(n_shown_);
  n_shown_ = answer_.tokens.size();
  if (request_.on_text) request_.on_text(text, fresh);
}

AnswerToken with_probabilities(text::Token token, std::span<const float> logits,
                               std::uint32_t n_likeliest) {
  const float highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit - highest));
  const double log_sum = highest + std::log(sum);
  const auto log_probability = [&](text::Token of) {
    return static_cast<float>(logits[static_cast<std::size_t>(of)] - log_sum);
  };

  AnswerToken result{.token = token, .log_probability = log_probability(token), .likeliest = {}};
  std::vector<text::Token> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto n = static_cast<std::ptrdiff_t>(std::min<std::size_t>(n_likeliest, order.size()));
  std::partial_sort(
      order.begin(), order.begin() + n, order.end(), [&](text::Token a, text::Token b) {
        return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
      });
  for (const text::Token likely : std::span(order).first(static_cast<std::size_t>(n))) {
    result.likeliest.push_back({likely, log_probability(likely)});
  }
  return result;
}

}  // namespace prima::generate

#include "generate/perplexity.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace prima::generate {

namespace {

// -ln of the softmax's value for `token`.
double negative_log_likelihood(std::span<const float> logits, text::Token token) {
  const float highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(logit - highest);
  return std::log(sum) - (static_cast<double>(logits[static_cast<std::size_t>(token)]) - highest);
}

void score(Perplexity& result, std::span<const float> logits, text::Token token) {
  const double nll = negative_log_likelihood(logits, token);
  result.sum_nll += nll;
  result.sum_squared_nll += nll * nll;
  ++result.n_scored;
}

}  // namespace

double Perplexity::value() const { return std::exp(sum_nll / static_cast<double>(n_scored)); }

double Perplexity::standard_error() const {
  const auto n = static_cast<double>(n_scored);
  const double mean = sum_nll / n;
  const double variance = std::max(0.0, sum_squared_nll / n - mean * mean);
  return value() * std::sqrt(variance / (n - 1));
}

Status check_perplexity(std::size_t n_tokens, std::uint32_t n_ctx) {
  constexpr std::uint32_t kLeastChunk = 6;  // two scored tokens: the least that has an error
  if (n_ctx < kLeastChunk) {
    return fail(ErrorCode::invalid_argument,
                "chunks of " + std::to_string(n_ctx) + " tokens are too short",
                "Give at least " + std::to_string(kLeastChunk));
  }
  if (n_tokens >= n_ctx) return {};
  return fail(
      ErrorCode::invalid_argument,
      "the text has " + std::to_string(n_tokens) + " tokens, a chunk " + std::to_string(n_ctx),
      "Give a longer text, or shorter chunks with -c");
}

Result<Perplexity> measure_perplexity(Engine& engine, const text::Tokenizer& tokenizer,
                                      std::span<const text::Token> tokens, std::uint32_t n_ctx,
                                      const std::function<void(const Perplexity&)>& on_chunk,
                                      const std::function<bool()>& cancelled) {
  PRIMA_RETURN_IF_ERROR(check_perplexity(tokens.size(), n_ctx));
  const auto n_vocab = static_cast<std::size_t>(tokenizer.n_vocab());
  const std::uint32_t first_scored = n_ctx / 2;  // whose successor is the first scored token

  Perplexity result;
  Sequence sequence(0);
  for (std::size_t start = 0; start + n_ctx <= tokens.size(); start += n_ctx) {
    std::vector<text::Token> chunk(tokens.begin() + static_cast<std::ptrdiff_t>(start),
                                   tokens.begin() + static_cast<std::ptrdiff_t>(start + n_ctx));
    const std::vector<text::Token> expected = chunk;
    if (tokenizer.adds_bos()) chunk[0] = tokenizer.bos();

    engine.truncate(sequence, 0);
    for (std::uint32_t at = 0; at < n_ctx;) {
      const std::uint32_t n = std::min(engine.max_tokens(), n_ctx - at);
      const std::uint32_t first_output = std::clamp(first_scored, at, at + n);
      const Part part{&sequence, std::span(chunk).subspan(at, n), at + n - first_output};
      PRIMA_RETURN_IF_ERROR(engine.submit({&part, 1}));
      PRIMA_ASSIGN_OR_RETURN(const ring::Ring::Finished finished, engine.next(cancelled));
      if (finished.logits.size() != part.n_outputs * n_vocab) {
        return fail(ErrorCode::internal,
                    "the ring returned " + std::to_string(finished.logits.size()) + " logits");
      }
      // The last token of a chunk predicts nothing in it.
      for (std::uint32_t i = first_output; i < std::min(at + n, n_ctx - 1); ++i) {
        const auto row = std::span(finished.logits).subspan((i - first_output) * n_vocab, n_vocab);
        score(result, row, expected[i + 1]);
        if (!std::isfinite(result.sum_nll)) {
          return fail(ErrorCode::internal, "the model's logits are not numbers",
                      "The model's file may be damaged: download it again");
        }
      }
      at += n;
    }
    ++result.n_chunks;
    if (on_chunk) on_chunk(result);
  }
  return result;
}

}  // namespace prima::generate

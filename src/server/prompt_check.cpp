#include "server/prompt_check.h"

#include <utility>
#include <variant>

#include <spdlog/fmt/fmt.h>

namespace prima::server {

ApiResult<void> check_model(const ServedModel& model, const std::string& asked) {
  if (asked.empty() || asked == model.name) return {};
  return tl::unexpected(ApiError{
      .status = 404,
      .message = "The model '" + asked + "' is not here; this server has '" + model.name + "'",
      .type = "invalid_request_error",
      .param = "model",
      .code = "model_not_found"});
}

ApiResult<void> check_length(const ServedModel& model, std::size_t n_tokens, const char* param) {
  if (n_tokens == 0) return tl::unexpected(bad_request(param, fmt::format("'{}' is empty", param)));
  if (n_tokens <= model.max_context) return {};
  ApiError error = bad_request(
      param, fmt::format("The prompt has {} tokens, but the context holds {}. Shorten it, or start "
                         "the server with a larger context (-c)",
                         n_tokens, model.max_context));
  error.code = "context_length_exceeded";
  return tl::unexpected(std::move(error));
}

ApiResult<std::vector<text::Token>> tokens_of_prompt(const ServedModel& model, const Prompt& prompt,
                                                     const char* param) {
  std::vector<text::Token> tokens;
  if (const auto* given = std::get_if<std::vector<text::Token>>(&prompt)) {
    for (const text::Token token : *given) {
      if (token < model.tokenizer.n_vocab()) continue;
      return tl::unexpected(
          bad_request(param, fmt::format("'{}' has the token {}, but the vocabulary ends at {}",
                                         param, token, model.tokenizer.n_vocab() - 1)));
    }
    tokens = *given;
  } else {
    auto made = model.tokenizer.tokenize(std::get<std::string>(prompt), /*add_special=*/true,
                                         text::SpecialTokens::parsed);
    if (!made) return tl::unexpected(api_error(made.error(), param));
    tokens = std::move(*made);
  }
  if (auto fits = check_length(model, tokens.size(), param); !fits) {
    return tl::unexpected(fits.error());
  }
  return tokens;
}

}  // namespace prima::server

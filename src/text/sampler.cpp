#include "text/sampler.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>

#include <json-schema-to-grammar.h>  // llama.cpp's common/json-schema-to-grammar.h
#include <llama.h>

#include "text/llama_log.h"
#include "text/trial.h"

namespace prima::text {

namespace {

Status check_range(const char* name, double value, double low, double high, const char* remedy) {
  if (std::isfinite(value) && value >= low && value <= high) return {};
  return fail(ErrorCode::invalid_argument,
              std::string(name) + " cannot be " + std::to_string(value), remedy);
}

Status check(const SamplerOptions& options, std::int32_t n_vocab) {
  constexpr double kMax = std::numeric_limits<float>::max();
  // Dividing by less than kLeastTemperature overflows.
  constexpr float kLeastTemperature = 1e-6f;
  if (options.temperature != 0.0f) {
    PRIMA_RETURN_IF_ERROR(check_range("the temperature", options.temperature, kLeastTemperature,
                                      kMax,
                                      "Give 0 (always the likeliest token) or more, such as 0.8"));
  }
  PRIMA_RETURN_IF_ERROR(
      check_range("top-k", options.top_k, 0, kMax, "Give a number of tokens, or 0 for all"));
  PRIMA_RETURN_IF_ERROR(check_range("top-p", options.top_p, 0, 1, "Give 0 to 1 (1 for all)"));
  PRIMA_RETURN_IF_ERROR(check_range("min-p", options.min_p, 0, 1, "Give 0 to 1 (0 for all)"));
  // Smaller ones overflow when llama.cpp divides by them.
  PRIMA_RETURN_IF_ERROR(check_range("the repeat penalty", options.repeat_penalty, 1e-3, 1e3,
                                    "Give 1 (none) or a little more, such as 1.1"));
  PRIMA_RETURN_IF_ERROR(check_range("the frequency penalty", options.frequency_penalty, -kMax, kMax,
                                    "Give 0 (none) or, for example, 0.5"));
  PRIMA_RETURN_IF_ERROR(check_range("the presence penalty", options.presence_penalty, -kMax, kMax,
                                    "Give 0 (none) or, for example, 0.5"));
  PRIMA_RETURN_IF_ERROR(check_range("the number of penalized tokens", options.penalized_tokens, 0,
                                    1 << 20, "Give 0 (no penalties) or, for example, 64"));
  for (const LogitBias& bias : options.logit_bias) {
    if (bias.token < 0 || bias.token >= n_vocab || std::isnan(bias.bias)) {
      return fail(ErrorCode::invalid_argument,
                  "a logit bias of " + std::to_string(bias.bias) + " for token " +
                      std::to_string(bias.token) + " cannot be",
                  "Tokens are 0 to " + std::to_string(n_vocab - 1));
    }
  }
  return {};
}

// The caller's, and the tokens that the model says must never be sampled.
std::vector<llama_logit_bias> all_biases(const Tokenizer& tokenizer,
                                         const SamplerOptions& options) {
  std::vector<llama_logit_bias> biases;
  for (const LogitBias& bias : options.logit_bias) biases.push_back({bias.token, bias.bias});
  std::int32_t n = 0;
  const llama_token* suppressed = llama_vocab_get_suppress_tokens(tokenizer.vocab(), &n);
  for (std::int32_t i = 0; i < n; ++i) biases.push_back({suppressed[i], -INFINITY});
  return biases;
}

bool has_penalties(const SamplerOptions& options) {
  return options.penalized_tokens > 0 &&
         (options.repeat_penalty != 1.0f || options.frequency_penalty != 0.0f ||
          options.presence_penalty != 0.0f);
}

Result<std::string> convert_json_schema(const std::string& schema) {
  try {
    return json_schema_to_grammar(common_json::parse(schema));
  } catch (const std::exception& error) {
    return fail(ErrorCode::invalid_argument,
                std::string("the JSON schema cannot be used: ") + error.what(),
                "Correct the schema");
  }
}

}  // namespace

void Sampler::FreeSampler::operator()(llama_sampler* sampler) const { llama_sampler_free(sampler); }

Sampler::Sampler() = default;
Sampler::Sampler(Sampler&&) noexcept = default;
Sampler& Sampler::operator=(Sampler&&) noexcept = default;
Sampler::~Sampler() = default;

Result<std::string> grammar_of_json_schema(const std::string& schema) {
  route_llama_log();
  // llama.cpp says on standard error what it could not express and lets everything pass there.
  constexpr std::string_view kIncomplete = "JSON schema conversion was incomplete: ";
  std::string said;
  const auto convert = [&]() -> Status {
    PRIMA_RETURN_IF_ERROR(convert_json_schema(schema));
    return {};
  };
  PRIMA_RETURN_IF_ERROR(try_in_child("the JSON schema", convert, {}, &said));
  if (const std::size_t at = said.find(kIncomplete); at != std::string::npos) {
    const std::size_t begin = at + kIncomplete.size();
    return fail(
        ErrorCode::invalid_argument,
        "the JSON schema cannot be kept: " + said.substr(begin, said.find('\n', at) - begin),
        "Leave that part out of the schema");
  }
  return convert_json_schema(schema);
}

Result<Sampler::SamplerPointer> Sampler::make_grammar(const Tokenizer& tokenizer,
                                                      const Grammar& grammar) {
  SamplerPointer sampler;
  CapturedLlamaErrors errors;
  try {
    if (grammar.lazy) {
      std::vector<const char*> patterns;
      for (const std::string& pattern : grammar.trigger_patterns) {
        patterns.push_back(pattern.c_str());
      }
      sampler.reset(llama_sampler_init_grammar_lazy_patterns(
          tokenizer.vocab(), grammar.gbnf.c_str(), "root", patterns.data(), patterns.size(),
          grammar.trigger_tokens.data(), grammar.trigger_tokens.size()));
    } else {
      sampler.reset(llama_sampler_init_grammar(tokenizer.vocab(), grammar.gbnf.c_str(), "root"));
    }
    if (sampler) {
      for (const Token token : grammar.prefix) llama_sampler_accept(sampler.get(), token);
    }
  } catch (const std::exception& error) {
    return fail(ErrorCode::invalid_argument,
                std::string("the grammar cannot be used: ") + error.what(), "Correct it");
  }
  if (sampler) return sampler;
  return fail(ErrorCode::invalid_argument,
              "the grammar cannot be used" + (errors.first().empty() ? "" : ": " + errors.first()),
              "Give GBNF with a rule named root that does not begin with itself");
}

Result<Sampler> Sampler::create(const Tokenizer& tokenizer, const SamplerOptions& options) {
  route_llama_log();
  PRIMA_RETURN_IF_ERROR(check(options, tokenizer.n_vocab()));
  Sampler sampler;
  sampler.n_vocab_ = static_cast<std::size_t>(tokenizer.n_vocab());

  if (!options.grammar.gbnf.empty()) {
    const auto parse = [&]() -> Status {
      PRIMA_RETURN_IF_ERROR(make_grammar(tokenizer, options.grammar));
      return {};
    };
    PRIMA_RETURN_IF_ERROR(try_in_child("the grammar", parse));
    PRIMA_ASSIGN_OR_RETURN(sampler.grammar_, make_grammar(tokenizer, options.grammar));
  }

  const std::vector<llama_logit_bias> biases = all_biases(tokenizer, options);
  const bool greedy = options.temperature == 0.0f;
  if (greedy && biases.empty() && !has_penalties(options)) return sampler;

  llama_sampler_chain_params params = llama_sampler_chain_default_params();
  params.no_perf = true;
  sampler.chain_.reset(llama_sampler_chain_init(params));
  const auto add = [&](llama_sampler* link) {
    llama_sampler_chain_add(sampler.chain_.get(), link);
  };
  if (!biases.empty()) {
    add(llama_sampler_init_logit_bias(tokenizer.n_vocab(), static_cast<std::int32_t>(biases.size()),
                                      biases.data()));
  }
  if (has_penalties(options)) {
    sampler.penalized_tokens_ = static_cast<std::size_t>(options.penalized_tokens);
    add(llama_sampler_init_penalties(tokenizer.n_vocab(), options.penalized_tokens,
                                     options.repeat_penalty, options.frequency_penalty,
                                     options.presence_penalty));
  }
  if (greedy) {
    add(llama_sampler_init_greedy());
    return sampler;
  }
  add(llama_sampler_init_top_k(options.top_k));
  add(llama_sampler_init_top_p(options.top_p, 1));
  add(llama_sampler_init_min_p(options.min_p, 1));
  add(llama_sampler_init_temp(options.temperature));
  // LLAMA_DEFAULT_SEED stands for a random seed there; here every seed is one.
  add(llama_sampler_init_dist(options.seed == LLAMA_DEFAULT_SEED ? 0 : options.seed));
  return sampler;
}

Sampler Sampler::clone() const {
  Sampler copy;
  if (chain_) copy.chain_.reset(llama_sampler_clone(chain_.get()));
  if (grammar_) copy.grammar_.reset(llama_sampler_clone(grammar_.get()));
  copy.n_vocab_ = n_vocab_;
  copy.penalized_tokens_ = penalized_tokens_;
  return copy;
}

Result<Token> Sampler::likeliest(std::span<const float> logits) const {
  if (logits.size() != n_vocab_) {
    return fail(ErrorCode::internal, "expected " + std::to_string(n_vocab_) + " logits, got " +
                                         std::to_string(logits.size()));
  }
  bool numbers = true;
  std::size_t best = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    numbers &= !std::isnan(logits[i]);
    if (logits[i] > logits[best]) best = i;
  }
  if (!numbers || !std::isfinite(logits[best])) {
    return fail(ErrorCode::internal, "the model's logits are not numbers",
                "The model's file may be damaged: download it again");
  }
  return static_cast<Token>(best);
}

void Sampler::set_candidates(std::span<const float> logits) {
  candidates_.resize(n_vocab_);
  for (std::size_t i = 0; i < n_vocab_; ++i) {
    candidates_[i] = {static_cast<llama_token>(i), logits[i], 0.0f};
  }
}

// REQUIRES: there are candidates.
Result<Token> Sampler::choose_candidate() {
  if (!chain_) {
    const auto by_logit = [](const llama_token_data& a, const llama_token_data& b) {
      return a.logit < b.logit;
    };
    return std::max_element(candidates_.begin(), candidates_.end(), by_logit)->id;
  }
  llama_token_data_array array{candidates_.data(), candidates_.size(), -1, false};
  llama_sampler_apply(chain_.get(), &array);
  if (array.selected < 0 || static_cast<std::size_t>(array.selected) >= array.size) {
    return fail(ErrorCode::internal, "llama.cpp's samplers chose no token");
  }
  return array.data[array.selected].id;
}

bool Sampler::grammar_allows(Token token) const {
  llama_token_data single{token, 1.0f, 0.0f};
  llama_token_data_array array{&single, 1, -1, false};
  llama_sampler_apply(grammar_.get(), &array);
  return single.logit != -INFINITY;
}

// Asking the grammar about one token is quick, about the whole vocabulary slow: so it is asked
// about the token sampled without it, and only if it forbids that, all are asked and the token is
// sampled again. Without top-k and the like the distribution is the same as asking first.
Result<Token> Sampler::sample(std::span<const float> logits) {
  PRIMA_ASSIGN_OR_RETURN(Token token, likeliest(logits));
  if (chain_) {
    set_candidates(logits);
    PRIMA_ASSIGN_OR_RETURN(token, choose_candidate());
  }
  if (!grammar_ || grammar_allows(token)) return token;

  set_candidates(logits);
  llama_token_data_array array{candidates_.data(), candidates_.size(), -1, false};
  llama_sampler_apply(grammar_.get(), &array);
  std::erase_if(candidates_, [](const llama_token_data& c) { return c.logit == -INFINITY; });
  if (candidates_.empty()) {
    return fail(ErrorCode::invalid_argument, "the grammar allows none of the model's tokens here",
                "Correct the grammar");
  }
  return choose_candidate();
}

Status Sampler::accept(Token token) {
  if (token < 0 || static_cast<std::size_t>(token) >= n_vocab_) {
    return fail(ErrorCode::internal,
                "token " + std::to_string(token) + " is not in the vocabulary");
  }
  if (grammar_) {
    // llama.cpp aborts or throws when told of a token that the grammar forbids.
    if (!grammar_allows(token)) {
      return fail(ErrorCode::invalid_argument,
                  "the grammar forbids token " + std::to_string(token) + " here");
    }
    try {
      llama_sampler_accept(grammar_.get(), token);
    } catch (const std::exception& error) {
      return fail(ErrorCode::internal, std::string("the grammar failed: ") + error.what());
    }
  }
  if (chain_) llama_sampler_accept(chain_.get(), token);
  return {};
}

void Sampler::accept_prompt(std::span<const Token> tokens) {
  if (!chain_) return;
  for (const Token token : tokens.last(std::min(tokens.size(), penalized_tokens_))) {
    llama_sampler_accept(chain_.get(), token);
  }
}

}  // namespace prima::text

#include "server/embedding_call.h"

#include <bit>
#include <cstdint>
#include <utility>

#include <spdlog/fmt/fmt.h>

#include "server/json_fields.h"
#include "server/prompt_check.h"

namespace prima::server {

namespace {

// Enough to fill a step with short texts.
constexpr std::size_t kSubmittedAtOnce = 16;

}  // namespace

ApiResult<std::unique_ptr<EmbeddingCall>> EmbeddingCall::start(Service& service,
                                                               const ServedModel& model,
                                                               const EmbeddingRequest& request) {
  if (auto known = check_model(model, request.model); !known) return tl::unexpected(known.error());
  if (model.pooling == model::Pooling::rank) {
    return tl::unexpected(bad_request(
        "model", "The model '" + model.name + "' was made to rank texts; it has no embeddings"));
  }
  if (request.dimensions && *request.dimensions != model.n_embd) {
    return tl::unexpected(bad_request(
        "dimensions",
        fmt::format("'dimensions' is {}, but this model's embeddings have {}; leave it out",
                    *request.dimensions, model.n_embd)));
  }
  std::unique_ptr<EmbeddingCall> call(new EmbeddingCall(service, model, request.base64));
  for (const Prompt& input : request.inputs) {
    auto tokens = tokens_of_prompt(model, input, "input");
    if (!tokens) return tl::unexpected(tokens.error());
    call->n_tokens_ += tokens->size();
    call->inputs_.push_back(std::move(*tokens));
  }
  call->embeddings_.resize(call->inputs_.size());
  if (auto submitted = call->submit_some(); !submitted) return tl::unexpected(submitted.error());
  return call;
}

EmbeddingCall::~EmbeddingCall() {
  for (const auto& [input, ticket] : submitted_) service_.cancel(ticket);
}

ApiResult<void> EmbeddingCall::submit_some() {
  while (n_submitted_ < inputs_.size() && submitted_.size() < kSubmittedAtOnce) {
    auto sampler = text::Sampler::create(model_.tokenizer, {});
    if (!sampler) return tl::unexpected(api_error(sampler.error()));
    const auto ticket = service_.submit(
        {.prompt = std::move(inputs_[n_submitted_]), .max_tokens = 1, .embedding = model_.pooling},
        std::move(*sampler), mailbox_, n_submitted_);
    // Of a list that has begun, the next is sent when another has ended.
    if (!ticket && !submitted_.empty() && ticket.error().code == ErrorCode::resource_exhausted) {
      return {};
    }
    if (!ticket) return tl::unexpected(api_error(ticket.error()));
    submitted_[n_submitted_++] = *ticket;
  }
  return {};
}

void EmbeddingCall::step(Duration limit) {
  std::optional<AnswerEvent> news = mailbox_->take(limit);
  if (!news || !news->end) return;
  submitted_.erase(news->choice);
  if (!*news->end) {
    error_ = api_error(news->end->error());
    return;
  }
  embeddings_[news->choice] = std::move((*news->end)->embedding);
  ++n_ended_;
  if (auto submitted = submit_some(); !submitted) error_ = submitted.error();
}

std::string EmbeddingCall::body() const {
  Json data = Json::array();
  for (std::size_t i = 0; i < embeddings_.size(); ++i) {
    data.push_back(
        {{"object", "embedding"},
         {"index", i},
         {"embedding", base64_ ? Json(base64_of(embeddings_[i])) : Json(embeddings_[i])}});
  }
  return print_json({{"object", "list"},
                     {"data", std::move(data)},
                     {"model", model_.name},
                     {"usage", {{"prompt_tokens", n_tokens_}, {"total_tokens", n_tokens_}}}});
}

std::string base64_of(const std::vector<float>& values) {
  std::string bytes;
  bytes.reserve(4 * values.size());
  for (const float value : values) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(bits >> shift & 0xff);
  }
  constexpr const char* kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t three = 0;
    for (std::size_t j = 0; j < 3; ++j) {
      three = three << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0u);
    }
    for (std::size_t j = 0; j < 4; ++j) {
      text += i + j <= bytes.size() ? kDigits[three >> (18 - 6 * j) & 63] : '=';
    }
  }
  return text;
}

}  // namespace prima::server

#include "server/generation_call.h"

#include <chrono>
#include <random>
#include <utility>

#include <spdlog/fmt/fmt.h>

#include "base/log.h"
#include "server/prompt_check.h"

namespace prima::server {

namespace {

std::int64_t unix_time() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::uint32_t random_seed() { return std::random_device{}(); }

tl::unexpected<ApiError> refuse(ApiError error) { return tl::unexpected(std::move(error)); }

}  // namespace

GenerationCall::GenerationCall(Service& service, const ServedModel& model,
                               const GenerationRequest& request, ApiKind kind)
    : service_(service),
      model_(model),
      streams_(request.stream),
      include_usage_(request.include_usage),
      logprobs_(request.top_probabilities.has_value()),
      head_{.kind = kind,
            .id = random_id(kind == ApiKind::chat ? "chatcmpl" : "cmpl"),
            .model = model.name,
            .created = unix_time()} {}

GenerationCall::~GenerationCall() {
  for (const Choice& choice : choices_) {
    if (!choice.answer) service_.cancel(choice.ticket);
  }
}

ApiResult<std::unique_ptr<GenerationCall>> GenerationCall::start(
    Service& service, const ServedModel& model, const ChatCompletionRequest& request) {
  if (auto known = check_model(model, request.generation.model); !known) {
    return refuse(known.error());
  }
  if (!model.chat_template) {
    return refuse(bad_request("messages",
                              "The model has no chat template; use /v1/completions, or start the "
                              "server with --chat-template"));
  }
  auto prompt = text::render_chat(*model.chat_template, model.tokenizer, request.chat);
  if (!prompt) return refuse(api_error(prompt.error(), "messages"));
  auto tokens =
      model.tokenizer.tokenize(prompt->text, /*add_special=*/true, text::SpecialTokens::parsed);
  if (!tokens) return refuse(api_error(tokens.error(), "messages"));
  if (auto fits = check_length(model, tokens->size(), "messages"); !fits) {
    return refuse(fits.error());
  }
  std::unique_ptr<GenerationCall> call(
      new GenerationCall(service, model, request.generation, ApiKind::chat));
  call->format_ = prompt->format;
  auto submitted = call->submit(request.generation, std::move(*tokens), &*prompt, "");
  if (!submitted) return refuse(submitted.error());
  return call;
}

ApiResult<std::unique_ptr<GenerationCall>> GenerationCall::start(Service& service,
                                                                 const ServedModel& model,
                                                                 const CompletionRequest& request) {
  if (auto known = check_model(model, request.generation.model); !known) {
    return refuse(known.error());
  }
  std::unique_ptr<GenerationCall> call(
      new GenerationCall(service, model, request.generation, ApiKind::completion));
  for (const Prompt& prompt : request.prompts) {
    auto tokens = tokens_of_prompt(model, prompt, "prompt");
    if (!tokens) return refuse(tokens.error());
    std::string echoed;
    if (request.echo) {
      const auto* text = std::get_if<std::string>(&prompt);
      echoed = text != nullptr ? *text : model.tokenizer.detokenize(*tokens);
    }
    auto submitted =
        call->submit(request.generation, std::move(*tokens), nullptr, std::move(echoed));
    if (!submitted) return refuse(submitted.error());
  }
  return call;
}

// The choices of one prompt.
ApiResult<void> GenerationCall::submit(const GenerationRequest& request,
                                       std::vector<text::Token> prompt,
                                       const text::ChatPrompt* chat, std::string echoed) {
  n_prompt_ += static_cast<std::uint32_t>(prompt.size());
  generate::Request generation{.prompt = std::move(prompt),
                               .max_tokens = request.max_tokens.value_or(0),
                               .stops = request.stops,
                               .ignore_end = request.ignore_end,
                               .top_probabilities = request.top_probabilities};
  text::SamplerOptions sampling = request.sampler;
  if (chat != nullptr) {
    generation.stops.insert(generation.stops.end(), chat->stops.begin(), chat->stops.end());
    generation.shown_specials = chat->shown_specials;
    sampling.grammar = chat->grammar;
  }
  const std::uint32_t seed = request.seed.value_or(random_seed());
  for (std::uint32_t i = 0; i < request.n; ++i) {
    sampling.seed = seed + i;
    auto sampler = text::Sampler::create(model_.tokenizer, sampling);
    if (!sampler) return refuse(api_error(sampler.error()));
    const auto ticket = service_.submit(generation, std::move(*sampler), mailbox_, choices_.size());
    if (!ticket) return refuse(api_error(ticket.error()));
    Choice& choice = choices_.emplace_back();
    choice.ticket = *ticket;
    choice.echoed = echoed;
    choice.text = echoed;
  }
  return {};
}

std::string GenerationCall::step(Duration limit) {
  std::string out;
  if (streams_ && !std::exchange(begun_, true)) out = stream_beginning();
  // Nobody waits for what is there to send already.
  std::optional<AnswerEvent> news = mailbox_->take(out.empty() ? limit : Duration{});
  if (!news) return out;
  Choice& choice = choices_[news->choice];
  choice.text += news->text;
  if (logprobs_) {
    choice.tokens.insert(choice.tokens.end(), news->tokens.begin(), news->tokens.end());
  }
  if (streams_ && (!news->text.empty() || !news->tokens.empty())) {
    out += stream_news(news->choice, *news);
  }
  if (!news->end) return out;
  if (!*news->end) {
    error_ = api_error(news->end->error());
    if (streams_) out += "data: " + error_->body() + "\n\n";
    return out;
  }
  choice.answer = std::move(**news->end);
  ++n_ended_;
  if (streams_) out += stream_end(news->choice);
  if (streams_ && finished()) {
    if (include_usage_) {
      Json last = chunk(head_);
      last["usage"] = total_usage();
      out += event(last);
    }
    out += "data: [DONE]\n\n";
  }
  return out;
}

// ---- Streaming ---------------------------------------------------------------------------------

std::string GenerationCall::stream_chunk(std::size_t index, Json delta, Json logprobs, Json finish,
                                         const Json& extra) {
  Json part = chunk(head_);
  Json choice = {{"index", index}};
  if (head_.kind == ApiKind::chat) {
    choice["delta"] = std::move(delta);
  } else {
    choice["text"] = std::move(delta);
  }
  choice["logprobs"] = std::move(logprobs);
  choice["finish_reason"] = std::move(finish);
  part["choices"].push_back(std::move(choice));
  if (include_usage_) part["usage"] = nullptr;
  if (!extra.is_null()) part["timings"] = extra;
  return event(part);
}

std::string GenerationCall::stream_beginning() {
  std::string out;
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    if (head_.kind == ApiKind::chat) {
      out += stream_chunk(i, {{"role", "assistant"}, {"content", ""}}, nullptr, nullptr);
    } else if (!choices_[i].echoed.empty()) {
      out += stream_chunk(i, choices_[i].echoed, nullptr, nullptr);
    }
  }
  return out;
}

std::string GenerationCall::stream_news(std::size_t index, const AnswerEvent& news) {
  Choice& choice = choices_[index];
  if (head_.kind == ApiKind::completion) {
    const std::size_t offset = choice.text.size() - news.text.size();
    return stream_chunk(
        index, news.text,
        logprobs_ ? completion_logprobs(model_.tokenizer, news.tokens, offset) : Json(), nullptr);
  }
  const Json logprobs = logprobs_ ? chat_logprobs(model_.tokenizer, news.tokens) : Json();
  if (format_.is_plain()) {
    return stream_chunk(index, {{"content", news.text}}, logprobs, nullptr);
  }
  // What is there may be the beginning of anything: what is certain of it is sent.
  const auto parsed = format_.parse(choice.text, /*partial=*/true);
  if (!parsed) return {};
  std::string out;
  for (Json& delta : deltas(choice, *parsed)) {
    out += stream_chunk(index, std::move(delta), logprobs, nullptr);
  }
  return out;
}

std::string GenerationCall::stream_end(std::size_t index) {
  Choice& choice = choices_[index];
  std::string out;
  bool has_calls = false;
  if (head_.kind == ApiKind::chat && !format_.is_plain()) {
    const text::ParsedAnswer parsed = parse_whole(choice);
    has_calls = !parsed.tool_calls.empty();
    for (Json& delta : deltas(choice, parsed)) {
      out += stream_chunk(index, std::move(delta), nullptr, nullptr);
    }
  }
  const Json nothing = head_.kind == ApiKind::chat ? Json::object() : Json("");
  return out + stream_chunk(index, nothing, nullptr,
                            finish_reason(choice.answer->finish, has_calls),
                            timings(choice.answer->statistics));
}

// What an answer has more than the client knows.
std::vector<Json> GenerationCall::deltas(Choice& choice, const text::ParsedAnswer& now) {
  std::vector<Json> result;
  const auto grown = [&](const std::string& before, const std::string& after) {
    return after.size() > before.size() && after.starts_with(before) ? after.substr(before.size())
                                                                     : std::string();
  };
  if (const std::string more = grown(choice.sent.reasoning, now.reasoning); !more.empty()) {
    result.push_back({{"reasoning_content", more}});
    choice.sent.reasoning = now.reasoning;
  }
  if (const std::string more = grown(choice.sent.content, now.content); !more.empty()) {
    result.push_back({{"content", more}});
    choice.sent.content = now.content;
  }
  for (std::size_t i = 0; i < now.tool_calls.size(); ++i) {
    const text::ToolCall& call = now.tool_calls[i];
    const bool is_new = i >= choice.sent.tool_calls.size();
    if (is_new) choice.sent.tool_calls.push_back({call.name, "", ""});
    text::ToolCall& sent = choice.sent.tool_calls[i];
    const std::string more = grown(sent.arguments, call.arguments);
    if (is_new) {
      Json json = tool_call({call.name, more, ""}, call_id(choice, call, i));
      json["index"] = i;
      result.push_back({{"tool_calls", Json::array({json})}});
    } else if (!more.empty()) {
      const Json json = {{"index", i}, {"function", {{"arguments", more}}}};
      result.push_back({{"tool_calls", Json::array({json})}});
    }
    sent.arguments += more;
  }
  return result;
}

const std::string& GenerationCall::call_id(Choice& choice, const text::ToolCall& call,
                                           std::size_t i) const {
  while (choice.call_ids.size() <= i) choice.call_ids.push_back(random_id("call"));
  if (!call.id.empty()) choice.call_ids[i] = call.id;
  return choice.call_ids[i];
}

// ---- The whole ---------------------------------------------------------------------------------

text::ParsedAnswer GenerationCall::parse_whole(const Choice& choice) const {
  // One that was cut short is read as far as it goes.
  const bool complete = choice.answer->finish == generate::FinishReason::end ||
                        choice.answer->finish == generate::FinishReason::stop_string;
  auto parsed = format_.parse(choice.text, /*partial=*/!complete);
  if (parsed) return std::move(*parsed);
  log::warn("{}", parsed.error().message());
  return {.content = choice.text, .reasoning = {}, .tool_calls = {}};
}

Json GenerationCall::message_of(Choice choice) const {
  const text::ParsedAnswer parsed = parse_whole(choice);
  Json message = {{"role", "assistant"}, {"content", parsed.content}, {"refusal", nullptr}};
  if (!parsed.reasoning.empty()) message["reasoning_content"] = parsed.reasoning;
  if (parsed.tool_calls.empty()) return message;
  if (parsed.content.empty()) message["content"] = nullptr;
  message["tool_calls"] = Json::array();
  for (std::size_t i = 0; i < parsed.tool_calls.size(); ++i) {
    message["tool_calls"].push_back(
        tool_call(parsed.tool_calls[i], call_id(choice, parsed.tool_calls[i], i)));
  }
  return message;
}

Json GenerationCall::total_usage() const {
  std::vector<generate::Statistics> statistics;
  for (const Choice& choice : choices_) statistics.push_back(choice.answer->statistics);
  return usage(statistics, n_prompt_);
}

std::string GenerationCall::body() const {
  Json response = whole(head_);
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    Json json = {{"index", i}};
    bool has_calls = false;
    if (head_.kind == ApiKind::chat) {
      json["message"] = message_of(choice);
      has_calls = json["message"].contains("tool_calls");
      json["logprobs"] = logprobs_ ? chat_logprobs(model_.tokenizer, choice.tokens) : Json();
    } else {
      json["text"] = choice.text;
      json["logprobs"] =
          logprobs_ ? completion_logprobs(model_.tokenizer, choice.tokens, choice.echoed.size())
                    : Json();
    }
    json["finish_reason"] = finish_reason(choice.answer->finish, has_calls);
    response["choices"].push_back(std::move(json));
  }
  response["usage"] = total_usage();
  response["timings"] = timings(choices_.front().answer->statistics);
  return print_json(response);
}

}  // namespace prima::server

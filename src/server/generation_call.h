// One HTTP request that generates: from its fields to the answers of its choices.
//
//     start() --> step() ... step() --> finished(): body(), or the last events have been taken
//        |           |
//     ApiError    streaming: events to send
//
// What has not ended when the object is destroyed is cancelled: the client has left.
//
// Thread-compatible.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "server/answer_json.h"
#include "server/api_request.h"
#include "server/mailbox.h"
#include "server/served_model.h"
#include "server/service.h"

namespace prima::server {

class GenerationCall {
 public:
  // The service and the model must outlive it.
  static ApiResult<std::unique_ptr<GenerationCall>> start(Service& service,
                                                          const ServedModel& model,
                                                          const ChatCompletionRequest& request);
  static ApiResult<std::unique_ptr<GenerationCall>> start(Service& service,
                                                          const ServedModel& model,
                                                          const CompletionRequest& request);
  ~GenerationCall();
  GenerationCall(const GenerationCall&) = delete;
  GenerationCall& operator=(const GenerationCall&) = delete;

  bool streams() const { return streams_; }
  bool finished() const { return n_ended_ == choices_.size() || error_.has_value(); }

  // What ended it, if that is not its answers.
  const std::optional<ApiError>& error() const { return error_; }

  // Waits for the next news, at most so long. Streaming: what to send now, perhaps nothing.
  std::string step(Duration limit);

  // REQUIRES: finished(), no error(), not streaming.
  std::string body() const;

 private:
  struct Choice {
    Service::Ticket ticket = 0;
    std::string echoed;  // the prompt, where it is part of the answer
    std::string text;
    std::vector<generate::AnswerToken> tokens;
    text::ParsedAnswer sent;  // streaming: what the client knows
    std::vector<std::string> call_ids;
    std::optional<generate::Answer> answer;
  };

  GenerationCall(Service& service, const ServedModel& model, const GenerationRequest& request,
                 ApiKind kind);

  ApiResult<void> submit(const GenerationRequest& request, std::vector<text::Token> prompt,
                         const text::ChatPrompt* chat, std::string echoed);
  std::string stream_beginning();
  std::string stream_news(std::size_t index, const AnswerEvent& news);
  std::string stream_end(std::size_t index);
  std::string stream_chunk(std::size_t index, Json delta, Json logprobs, Json finish,
                           const Json& extra = {});
  std::vector<Json> deltas(Choice& choice, const text::ParsedAnswer& now);
  const std::string& call_id(Choice& choice, const text::ToolCall& call, std::size_t i) const;
  text::ParsedAnswer parse_whole(const Choice& choice) const;
  Json message_of(Choice choice) const;
  Json total_usage() const;

  Service& service_;
  const ServedModel& model_;
  const bool streams_;
  const bool include_usage_;
  const bool logprobs_;
  ResponseHead head_;
  text::AnswerFormat format_;
  std::shared_ptr<Mailbox> mailbox_ = std::make_shared<Mailbox>();
  std::vector<Choice> choices_;
  std::size_t n_ended_ = 0;
  std::uint32_t n_prompt_ = 0;
  bool begun_ = false;
  std::optional<ApiError> error_;
};

}  // namespace prima::server

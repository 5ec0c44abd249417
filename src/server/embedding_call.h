// One HTTP request for embeddings: from its texts to a vector of each.
//
//     start() --> step() ... step() --> finished(): body() or error()
//
// A few of its texts are submitted at a time, so that a long list does not fill the queue. What has
// not ended when the object is destroyed is cancelled: the client has left.
//
// Thread-compatible.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "server/api_request.h"
#include "server/mailbox.h"
#include "server/served_model.h"
#include "server/service.h"

namespace prima::server {

class EmbeddingCall {
 public:
  // The service and the model must outlive it.
  static ApiResult<std::unique_ptr<EmbeddingCall>> start(Service& service, const ServedModel& model,
                                                         const EmbeddingRequest& request);
  ~EmbeddingCall();
  EmbeddingCall(const EmbeddingCall&) = delete;
  EmbeddingCall& operator=(const EmbeddingCall&) = delete;

  bool finished() const { return n_ended_ == embeddings_.size() || error_.has_value(); }

  // What ended it, if that is not its embeddings.
  const std::optional<ApiError>& error() const { return error_; }

  // Waits for the next news, at most so long.
  void step(Duration limit);

  // REQUIRES: finished(), no error().
  std::string body() const;

 private:
  EmbeddingCall(Service& service, const ServedModel& model, bool base64)
      : service_(service), model_(model), base64_(base64) {}

  ApiResult<void> submit_some();

  Service& service_;
  const ServedModel& model_;
  const bool base64_;
  std::shared_ptr<Mailbox> mailbox_ = std::make_shared<Mailbox>();
  std::vector<std::vector<text::Token>> inputs_;
  std::vector<std::vector<float>> embeddings_;  // by input
  std::map<std::size_t, Service::Ticket> submitted_;
  std::size_t n_submitted_ = 0;
  std::size_t n_ended_ = 0;
  std::size_t n_tokens_ = 0;
  std::optional<ApiError> error_;
};

// Little-endian, in base64.
std::string base64_of(const std::vector<float>& values);

}  // namespace prima::server

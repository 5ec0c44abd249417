// The HTTP side: routes, who may ask, what is too large or too slow, errors in OpenAI's shape.
//
//     POST /v1/chat/completions  /v1/completions  /v1/embeddings  /tokenize  /detokenize
//     GET  /v1/models  /v1/models/NAME  /health  /metrics
//
// Threads of its own, one for each connection; generating is the Service's.
//
// Thread-safe, except for construction and destruction.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "server/connection_limits.h"
#include "server/served_model.h"
#include "server/service.h"

namespace httplib {
class Server;
}

namespace prima::server {

struct HttpOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;          // 0: any free one
  std::vector<std::string> api_keys;  // empty: everybody may ask
  std::string cors_origin;            // which web pages may ask: an origin or "*"; empty: none
  ConnectionLimits limits{};
};

class HttpServer {
 public:
  // Listens from now on. The service and the model must outlive it. Fails with io if the address
  // cannot be had.
  static Result<std::unique_ptr<HttpServer>> start(const HttpOptions& options, Service& service,
                                                   const ServedModel& model);

  // Waits for the answers under way; no new connections are taken.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  std::uint16_t port() const { return port_; }

 private:
  HttpServer();

  std::unique_ptr<httplib::Server> server_;
  std::thread thread_;
  std::uint16_t port_ = 0;
};

}  // namespace prima::server

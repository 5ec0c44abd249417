#include "server/http_server.h"

#include <chrono>
#include <exception>
#include <functional>
#include <utility>

#include <cpp-httplib/httplib.h>
#include <spdlog/fmt/fmt.h>

#include "base/log.h"
#include "server/deadline_server.h"
#include "server/embedding_call.h"
#include "server/generation_call.h"

namespace prima::server {

namespace {

// A context of 128K tokens is about half a megabyte of text, and some JSON around it.
constexpr std::size_t kMaxBodyBytes = 4 << 20;

// Larger ones are still read, up to here, before they are refused: a client that is cut off while
// it sends may never see why.
constexpr std::size_t kMaxReadBytes = 16 << 20;

// Connections served at once; more wait for a thread, and still more are turned away.
constexpr std::size_t kThreads = 8;
constexpr std::size_t kMaxThreads = 512;
constexpr std::size_t kMaxWaitingConnections = 512;

// Clients keep connections for their next request; a number that no client reaches.
constexpr std::size_t kRequestsPerConnection = 1'000'000;

// How soon it is noticed that a client has left while its answer is waited for.
constexpr Duration kLeavePoll = std::chrono::milliseconds(100);

// nginx's status for a client that left; it never sees it.
constexpr int kClientClosedRequest = 499;

constexpr const char* kJsonType = "application/json";

bool equal_in_constant_time(std::string_view a, std::string_view b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const char other = b.empty() ? '\0' : b[i % b.size()];
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(other);
  }
  return difference == 0;
}

void send(httplib::Response& response, const ApiError& error) {
  response.status = error.status;
  if (error.retry_after_seconds > 0) {
    response.set_header("Retry-After", std::to_string(error.retry_after_seconds));
  }
  response.set_content(error.body(), kJsonType);
}

void send(httplib::Response& response, const Json& json) {
  response.set_content(print_json(json), kJsonType);
}

// For what fails before a handler is reached.
ApiError error_of_status(int status) {
  const auto error = [&](std::string message) {
    return ApiError{
        .status = status, .message = std::move(message), .type = "invalid_request_error"};
  };
  switch (status) {
    case 404: return error("There is nothing at this address with this method");
    case 413:
      return error(
          fmt::format("The request is too large: at most {} bytes are read", kMaxBodyBytes));
    case 414: return error("The address is too long");
    case 431: return error("The headers are too many or too long");
    default: return error("The request cannot be read");
  }
}

class Routes {
 public:
  Routes(const HttpOptions& options, Service& service, const ServedModel& model)
      : options_(options), service_(service), model_(model) {}

  // What every request passes first.
  bool admit(const httplib::Request& request, httplib::Response& response) const {
    if (!options_.cors_origin.empty()) {
      response.set_header("Access-Control-Allow-Origin", options_.cors_origin);
      response.set_header("Vary", "Origin");
    }
    if (request.method == "OPTIONS" && !options_.cors_origin.empty()) {
      response.set_header("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
      response.set_header("Access-Control-Allow-Headers", "*, Authorization");
      response.set_header("Access-Control-Max-Age", "86400");
      response.status = 204;
      return false;
    }
    if (options_.api_keys.empty() || request.path == "/health") return true;
    const std::string given = request.get_header_value("Authorization");
    constexpr std::string_view kBearer = "Bearer ";
    bool known = false;
    for (const std::string& key : options_.api_keys) {
      known |= given.starts_with(kBearer) &&
               equal_in_constant_time(key, std::string_view(given).substr(kBearer.size()));
    }
    if (known) return true;
    response.set_header("WWW-Authenticate", "Bearer");
    send(response, ApiError{.status = 401,
                            .message = given.empty() ? "An API key is needed: send the header "
                                                       "'Authorization: Bearer KEY'"
                                                     : "The API key is not known here",
                            .type = "invalid_request_error",
                            .code = "invalid_api_key"});
    return false;
  }

  void health(const httplib::Request&, httplib::Response& response) const {
    const ServiceState state = service_.state();
    switch (state.phase) {
      case ServiceState::Phase::ready: return send(response, Json{{"status", "ok"}});
      case ServiceState::Phase::loading:
        response.status = 503;
        response.set_header("Retry-After", "2");
        return send(response, Json{{"status", "loading"}, {"progress", state.progress}});
      case ServiceState::Phase::draining:
      case ServiceState::Phase::stopped:
        response.status = 503;
        response.set_header("Retry-After", "10");
        return send(response, Json{{"status", "shutting down"}});
    }
  }

  void metrics(const httplib::Request&, httplib::Response& response) const {
    response.set_content(service_.metrics(), "text/plain; version=0.0.4");
  }

  Json model_json() const {
    return {{"id", model_.name},
            {"object", "model"},
            {"created", model_.created},
            {"owned_by", "prima"},
            {"context_length", model_.max_context}};
  }

  void models(const httplib::Request&, httplib::Response& response) const {
    send(response, Json{{"object", "list"}, {"data", Json::array({model_json()})}});
  }

  void model(const httplib::Request& request, httplib::Response& response) const {
    if (request.path_params.at("name") == model_.name) return send(response, model_json());
    send(response, ApiError{.status = 404,
                            .message = "This model is not here; /v1/models lists what is",
                            .type = "invalid_request_error",
                            .param = "model",
                            .code = "model_not_found"});
  }

  void embeddings(const httplib::Request& request, httplib::Response& response) const {
    const auto parsed = parse_embedding(request.body);
    if (!parsed) return send(response, parsed.error());
    auto started = EmbeddingCall::start(service_, model_, *parsed);
    if (!started) return send(response, started.error());
    answer(request, response, **started);
  }

  void tokenize(const httplib::Request& request, httplib::Response& response) const {
    const auto parsed = parse_tokenize(request.body);
    if (!parsed) return send(response, parsed.error());
    const auto tokens = model_.tokenizer.tokenize(
        parsed->content, parsed->add_special,
        parsed->parse_special ? text::SpecialTokens::parsed : text::SpecialTokens::as_text);
    if (!tokens) return send(response, api_error(tokens.error(), "content"));
    send(response, Json{{"tokens", *tokens}});
  }

  void detokenize(const httplib::Request& request, httplib::Response& response) const {
    const auto parsed = parse_detokenize(request.body);
    if (!parsed) return send(response, parsed.error());
    for (const text::Token token : parsed->tokens) {
      if (token >= model_.tokenizer.n_vocab()) {
        return send(response,
                    bad_request("tokens", fmt::format("There is no token {}: the vocabulary ends "
                                                      "at {}",
                                                      token, model_.tokenizer.n_vocab() - 1)));
      }
    }
    send(response, Json{{"content", model_.tokenizer.detokenize(parsed->tokens)}});
  }

  void chat_completions(const httplib::Request& request, httplib::Response& response) const {
    generate(request, response, parse_chat_completion(request.body));
  }

  void completions(const httplib::Request& request, httplib::Response& response) const {
    generate(request, response, parse_completion(request.body));
  }

 private:
  template <typename Parsed>
  void generate(const httplib::Request& request, httplib::Response& response,
                const ApiResult<Parsed>& parsed) const {
    if (!parsed) return send(response, parsed.error());
    auto started = GenerationCall::start(service_, model_, *parsed);
    if (!started) return send(response, started.error());
    if ((*started)->streams()) return stream(std::move(*started), response);
    answer(request, response, **started);
  }

  template <typename Call>
  static void answer(const httplib::Request& request, httplib::Response& response, Call& call) {
    while (!call.finished()) {
      call.step(kLeavePoll);
      if (!call.finished() && request.is_connection_closed()) {
        response.status = kClientClosedRequest;
        return;  // destroying the call ends its answers
      }
    }
    if (call.error()) return send(response, *call.error());
    response.set_content(call.body(), kJsonType);
  }

  static void stream(std::unique_ptr<GenerationCall> given, httplib::Response& response) {
    const std::shared_ptr<GenerationCall> call(std::move(given));
    response.set_header("Cache-Control", "no-cache");
    response.set_chunked_content_provider(
        "text/event-stream", [call](std::size_t, httplib::DataSink& sink) {
          const std::string news = call->step(kLeavePoll);
          if (!news.empty() && !sink.write(news.data(), news.size())) return false;
          if (!sink.is_writable()) return false;
          if (call->finished()) sink.done();
          return true;
        });
  }

  const HttpOptions options_;
  Service& service_;
  const ServedModel& model_;
};

}  // namespace

HttpServer::HttpServer() = default;

Result<std::unique_ptr<HttpServer>> HttpServer::start(const HttpOptions& options, Service& service,
                                                      const ServedModel& model) {
  std::unique_ptr<HttpServer> http(new HttpServer);
  http->server_ = std::make_unique<DeadlineServer>(options.limits);
  httplib::Server& server = *http->server_;
  server.new_task_queue = [] {
    return new httplib::ThreadPool(kThreads, kMaxThreads, kMaxWaitingConnections);
  };
  server.set_payload_max_length(kMaxReadBytes);
  server.set_keep_alive_max_count(kRequestsPerConnection);
  server.set_tcp_nodelay(true);  // tokens are sent as they come
  // Not SO_REUSEPORT, the library's default: two servers would share the port's clients.
  server.set_socket_options([](socket_t socket) {
    const int yes = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });

  const auto routes = std::make_shared<Routes>(options, service, model);
  using Handler = void (Routes::*)(const httplib::Request&, httplib::Response&) const;
  const auto handler = [&](Handler member) {
    return [routes, member](const httplib::Request& request, httplib::Response& response) {
      if (request.body.size() > kMaxBodyBytes) return send(response, error_of_status(413));
      ((*routes).*member)(request, response);
    };
  };
  server.set_pre_routing_handler(
      [routes](const httplib::Request& request, httplib::Response& response) {
        return routes->admit(request, response) ? httplib::Server::HandlerResponse::Unhandled
                                                : httplib::Server::HandlerResponse::Handled;
      });
  server.set_error_handler([](const httplib::Request&, httplib::Response& response) {
    if (response.body.empty() && response.status != kClientClosedRequest) {
      send(response, error_of_status(response.status));
    }
  });
  server.set_exception_handler([](const httplib::Request& request, httplib::Response& response,
                                  const std::exception_ptr& exception) {
    try {
      std::rethrow_exception(exception);
    } catch (const std::exception& error) {
      log::error("{}: {}", request.path, error.what());
    } catch (...) {
      log::error("{}: an unknown exception", request.path);
    }
    send(response, ApiError{.status = 500, .message = "Something went wrong inside the server"});
  });
  server.set_logger([](const httplib::Request& request, const httplib::Response& response) {
    log::info("{} {} {} {}", request.remote_addr, request.method, request.path, response.status);
  });
  server.Get("/health", handler(&Routes::health));
  server.Get("/metrics", handler(&Routes::metrics));
  server.Get("/v1/models", handler(&Routes::models));
  server.Get("/v1/models/:name", handler(&Routes::model));
  server.Post("/v1/chat/completions", handler(&Routes::chat_completions));
  server.Post("/v1/completions", handler(&Routes::completions));
  server.Post("/v1/embeddings", handler(&Routes::embeddings));
  server.Post("/tokenize", handler(&Routes::tokenize));
  server.Post("/detokenize", handler(&Routes::detokenize));

  const int port = options.port == 0 ? server.bind_to_any_port(options.host)
                   : server.bind_to_port(options.host, options.port) ? options.port
                                                                     : -1;
  if (port < 0) {
    return fail(ErrorCode::io,
                fmt::format("{}:{} cannot be listened on", options.host, options.port),
                "Another program may have the port; give another with --port");
  }
  http->port_ = static_cast<std::uint16_t>(port);
  http->thread_ = std::thread([&server] { server.listen_after_bind(); });
  server.wait_until_ready();
  return http;
}

HttpServer::~HttpServer() {
  if (server_) server_->stop();
  if (thread_.joinable()) thread_.join();
}

}  // namespace prima::server

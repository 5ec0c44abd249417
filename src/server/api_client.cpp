#include "server/api_client.h"

#include <exception>
#include <thread>
#include <utility>

#include <cpp-httplib/httplib.h>

namespace prima::server {

namespace {

// An answer's first token may wait for a whole queue, and for slow disks.
constexpr std::chrono::minutes kReadLimit{30};
constexpr std::chrono::seconds kConnectLimit{5};
constexpr std::chrono::milliseconds kReadyPoll{200};

// Reads server-sent events as their bytes come.
class EventReader {
 public:
  EventReader(StreamedAnswer& answer, Instant started, const Clock& clock,
              const std::function<bool(std::string_view)>& on_text)
      : answer_(answer), started_(started), clock_(clock), on_text_(on_text) {}

  // False: enough.
  bool read(std::string_view bytes) {
    pending_ += bytes;
    std::size_t end;
    while ((end = pending_.find('\n')) != std::string::npos) {
      const std::string line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      if (!line.starts_with("data: ")) {
        other_ += line;
        continue;
      }
      if (line != "data: [DONE]" && !take(line.substr(6))) return false;
    }
    return true;
  }

  // What came that was no event: an error's body.
  std::string other() const { return other_ + pending_; }
  const std::optional<std::string>& error() const { return error_; }

 private:
  bool take(const std::string& data) {
    const Json json = Json::parse(data, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) return true;
    if (json.contains("error")) {
      error_ = json["error"].value("message", "unknown error");
      return false;
    }
    if (const auto usage = json.find("usage"); usage != json.end() && usage->is_object()) {
      answer_.n_prompt = usage->value("prompt_tokens", 0u);
      answer_.n_generated = usage->value("completion_tokens", 0u);
      if (usage->contains("prompt_tokens_details")) {
        answer_.n_reused = (*usage)["prompt_tokens_details"].value("cached_tokens", 0u);
      }
    }
    if (const auto timings = json.find("timings"); timings != json.end()) {
      answer_.n_drafted = timings->value("drafted_tokens", 0u);
      answer_.n_accepted = timings->value("accepted_tokens", 0u);
    }
    if (!json.contains("choices") || json["choices"].empty()) return true;
    const Json& choice = json["choices"][0];
    if (choice.contains("finish_reason") && choice["finish_reason"].is_string()) {
      answer_.finish_reason = choice["finish_reason"].get<std::string>();
    }
    std::string text;
    if (choice.contains("text") && choice["text"].is_string()) {
      text = choice["text"].get<std::string>();
    } else if (choice.contains("delta") && choice["delta"].contains("content") &&
               choice["delta"]["content"].is_string()) {
      text = choice["delta"]["content"].get<std::string>();
    }
    if (text.empty()) return true;
    if (answer_.text.empty()) answer_.time_to_first_token = clock_.now() - started_;
    answer_.text += text;
    return on_text_(text);
  }

  StreamedAnswer& answer_;
  const Instant started_;
  const Clock& clock_;
  const std::function<bool(std::string_view)>& on_text_;
  std::string pending_;
  std::string other_;
  std::optional<std::string> error_;
};

std::string message_in(const std::string& body) {
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (json.is_object() && json.contains("error") && json["error"].is_object()) {
    return json["error"].value("message", body);
  }
  if (json.is_object() && json.contains("progress")) return json.value("progress", body);
  return body.substr(0, 200);
}

}  // namespace

Duration StreamedAnswer::time_per_output_token() const {
  return n_generated > 1 ? (total - time_to_first_token) / (n_generated - 1) : Duration{};
}

ApiClient::ApiClient(std::unique_ptr<httplib::Client> client, const Clock& clock)
    : client_(std::move(client)), clock_(&clock) {}
ApiClient::ApiClient(ApiClient&&) noexcept = default;
ApiClient& ApiClient::operator=(ApiClient&&) noexcept = default;
ApiClient::~ApiClient() = default;

Result<ApiClient> ApiClient::create(const std::string& url, const std::string& api_key,
                                    const Clock& clock) {
  std::string address = url;
  while (address.ends_with('/')) address.pop_back();
  if (address.ends_with("/v1")) address.resize(address.size() - 3);
  if (address.find("://") == std::string::npos) address = "http://" + address;
  std::unique_ptr<httplib::Client> client;
  try {
    client = std::make_unique<httplib::Client>(address);
  } catch (const std::exception&) {
    // Told below: https, without a build that can.
  }
  if (!client || !client->is_valid()) {
    return fail(ErrorCode::invalid_argument, "'" + url + "' is no address of a server",
                "Give one such as http://127.0.0.1:8080");
  }
  client->set_connection_timeout(kConnectLimit);
  client->set_read_timeout(kReadLimit);
  client->set_keep_alive(true);
  client->set_tcp_nodelay(true);
  if (!api_key.empty()) client->set_bearer_token_auth(api_key);
  return ApiClient(std::move(client), clock);
}

Status ApiClient::wait_until_ready(Duration limit, const std::function<bool()>& cancelled) {
  const Instant deadline = clock_->now() + limit;
  for (;;) {
    const auto health = client_->Get("/health");
    if (health && health->status == 200) return {};
    if (cancelled && cancelled()) return fail(ErrorCode::cancelled, "Cancelled");
    if (clock_->now() >= deadline) {
      return fail(ErrorCode::unavailable,
                  health ? "the server is not ready: " + message_in(health->body)
                         : "nobody answers at this address: " + httplib::to_string(health.error()),
                  "Start one with prima serve");
    }
    std::this_thread::sleep_for(kReadyPoll);
  }
}

Result<std::string> ApiClient::model() {
  const auto response = client_->Get("/v1/models");
  if (!response) {
    return fail(ErrorCode::unavailable,
                "the server does not answer: " + httplib::to_string(response.error()));
  }
  const Json json = Json::parse(response->body, nullptr, /*allow_exceptions=*/false);
  if (response->status != 200 || !json.is_object() || !json.contains("data") ||
      json["data"].empty()) {
    return fail(ErrorCode::unavailable, "the server names no model: " + message_in(response->body));
  }
  return json["data"][0].value("id", "");
}

Result<StreamedAnswer> ApiClient::ask(const std::string& path, Json request,
                                      const std::function<bool(std::string_view)>& on_text) {
  request["stream"] = true;
  request["stream_options"] = {{"include_usage", true}};
  StreamedAnswer answer;
  const Instant started = clock_->now();
  bool ended_here = false;
  EventReader reader(answer, started, *clock_, on_text);
  const auto response = client_->Post(path, httplib::Headers{}, print_json(request),
                                      "application/json", [&](const char* data, std::size_t size) {
                                        ended_here = !reader.read({data, size});
                                        return !ended_here;
                                      });
  answer.total = clock_->now() - started;
  if (reader.error()) return fail(ErrorCode::unavailable, *reader.error());
  if (ended_here || (!response && response.error() == httplib::Error::Canceled)) {
    answer.left = true;
    client_->stop();  // the connection too: the server shall not write for nobody
    return answer;
  }
  if (!response) {
    return fail(ErrorCode::unavailable,
                "the server does not answer: " + httplib::to_string(response.error()));
  }
  if (response->status == 200) return answer;
  const std::string body = response->body.empty() ? reader.other() : response->body;
  const bool refused = response->status >= 400 && response->status < 500 && response->status != 429;
  return fail(refused ? ErrorCode::invalid_argument : ErrorCode::unavailable,
              "the server refuses (" + std::to_string(response->status) + "): " + message_in(body));
}

void ApiClient::stop() { client_->stop(); }

}  // namespace prima::server

// Talks to a server of OpenAI's API, this project's or another.
//
// Thread-compatible, except that stop() may be called from another thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "server/json_fields.h"

namespace httplib {
class Client;
}

namespace prima::server {

struct StreamedAnswer {
  std::string text;
  std::string finish_reason;
  std::uint32_t n_prompt = 0;
  std::uint32_t n_reused = 0;
  std::uint32_t n_generated = 0;
  std::uint32_t n_drafted = 0;  // where the server says so
  std::uint32_t n_accepted = 0;
  Duration time_to_first_token{};  // as seen here
  Duration total{};
  bool left = false;  // on_text ended it, or stop()

  Duration time_per_output_token() const;
};

class ApiClient {
 public:
  // `url`: of the server, with or without /v1. Fails with invalid_argument. The clock must outlive
  // it.
  static Result<ApiClient> create(const std::string& url, const std::string& api_key,
                                  const Clock& clock);
  ApiClient(ApiClient&&) noexcept;
  ApiClient& operator=(ApiClient&&) noexcept;
  ~ApiClient();

  // Waits until /health says that it is ready. Fails with unavailable, with what it says.
  Status wait_until_ready(Duration limit, const std::function<bool()>& cancelled);

  // The name of the first model that is served.
  Result<std::string> model();

  // Asks for a streamed answer. `path`: "/v1/chat/completions" or "/v1/completions"; `request` is
  // completed with "stream". `on_text` returning false ends it. Fails with unavailable (nobody
  // there, too many requests, shutting down), invalid_argument (the request), io.
  Result<StreamedAnswer> ask(const std::string& path, Json request,
                             const std::function<bool(std::string_view)>& on_text);

  // Ends what ask() does.
  void stop();

 private:
  ApiClient(std::unique_ptr<httplib::Client> client, const Clock& clock);

  std::unique_ptr<httplib::Client> client_;
  const Clock* clock_;
};

}  // namespace prima::server

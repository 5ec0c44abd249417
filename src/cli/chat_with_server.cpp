// chat_partner.h: a running server.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <optional>
#include <thread>
#include <utility>

#include "cli/chat_partner.h"
#include "server/api_client.h"

namespace prima::cli {

namespace {

constexpr std::chrono::milliseconds kInterruptPoll{50};
constexpr std::chrono::seconds kReadyLimit{600};

class ServerPartner final : public ChatPartner {
 public:
  ServerPartner(server::ApiClient client, std::string name, const RunOptions& options,
                InterruptGuard& interrupt)
      : client_(std::move(client)),
        name_(std::move(name)),
        options_(options),
        interrupt_(interrupt) {}

  const std::string& name() const override { return name_; }

  Result<ChatReply> reply(std::span<const text::ChatMessage> messages) override {
    const server::Json request = request_of(messages);
    std::atomic<bool> done{false};
    // A Ctrl-C before the first token ends the wait for it.
    std::thread watcher([&] {
      while (!done) {
        if (interrupt_.interrupted()) client_.stop();
        std::this_thread::sleep_for(kInterruptPoll);
      }
    });
    const auto answer = client_.ask("/v1/chat/completions", request, [&](std::string_view text) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
      return !interrupt_.interrupted();
    });
    done = true;
    watcher.join();
    if (!answer && interrupt_.interrupted()) return ChatReply{};
    if (!answer) return tl::unexpected(answer.error());
    if (!answer->text.ends_with('\n')) std::fputc('\n', stdout);
    std::fflush(stdout);
    return ChatReply{.text = answer->text,
                     .n_prompt = answer->n_prompt,
                     .n_reused = answer->n_reused,
                     .n_generated = answer->n_generated,
                     .n_drafted = answer->n_drafted,
                     .n_accepted = answer->n_accepted,
                     .time_to_first_token = answer->time_to_first_token,
                     .time_per_output_token = answer->time_per_output_token()};
  }

 private:
  server::Json request_of(std::span<const text::ChatMessage> messages) const {
    const text::SamplerOptions& sampler = options_.sampler;
    server::Json request = {{"messages", server::Json::array()},
                            {"temperature", sampler.temperature},
                            {"top_p", sampler.top_p},
                            {"top_k", sampler.top_k},
                            {"min_p", sampler.min_p},
                            {"repeat_penalty", sampler.repeat_penalty},
                            {"frequency_penalty", sampler.frequency_penalty},
                            {"presence_penalty", sampler.presence_penalty}};
    for (const text::ChatMessage& message : messages) {
      request["messages"].push_back({{"role", message.role}, {"content", message.content}});
    }
    if (options_.max_tokens) request["max_tokens"] = *options_.max_tokens;
    if (options_.seed) request["seed"] = *options_.seed;
    if (!options_.stops.empty()) request["stop"] = options_.stops;
    if (options_.ignore_end) request["ignore_eos"] = true;
    return request;
  }

  server::ApiClient client_;
  const std::string name_;
  const RunOptions& options_;
  InterruptGuard& interrupt_;
};

}  // namespace

Result<std::unique_ptr<ChatPartner>> connect_to_server(const std::string& url,
                                                       const std::string& api_key,
                                                       const RunOptions& options,
                                                       InterruptGuard& interrupt,
                                                       const Clock& clock) {
  PRIMA_ASSIGN_OR_RETURN(auto client, server::ApiClient::create(url, api_key, clock));
  // One that is there but loads is waited for.
  const Status there = client.wait_until_ready(Duration{}, {});
  if (!there && there.error().what.find("not ready") != std::string::npos) {
    std::fprintf(stderr, "%s. Waiting for it.\n", there.error().what.c_str());
    PRIMA_RETURN_IF_ERROR(
        client.wait_until_ready(kReadyLimit, [&] { return interrupt.interrupted(); }));
  } else {
    PRIMA_RETURN_IF_ERROR(there);
  }
  PRIMA_ASSIGN_OR_RETURN(std::string name, client.model());
  return std::make_unique<ServerPartner>(std::move(client), std::move(name), options, interrupt);
}

}  // namespace prima::cli

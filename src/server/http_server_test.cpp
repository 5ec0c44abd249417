#include "server/http_server.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <deque>
#include <functional>
#include <memory>
#include <thread>

#include <arpa/inet.h>
#include <cpp-httplib/httplib.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "generate/fake_ring.h"
#include "server/embedding_call.h"
#include "server/json_fields.h"
#include "text/test_vocabulary.h"

namespace prima::server {
namespace {

using testing::HasSubstr;
using namespace std::chrono_literals;

// A server on a toy model, whose ring takes no time unless a test makes it.
class HttpServerTest : public testing::Test {
 protected:
  // Its steps may wait for a test.
  class GatedRing final : public ring::Ring {
   public:
    GatedRing(generate::FakeRing::Options options, ManualClock& clock)
        : ring_(std::move(options), clock) {}
    Status submit(const compute::Step& step, std::span<const std::int32_t> tokens,
                  Instant deadline) override {
      ++steps;
      return ring_.submit(step, tokens, deadline);
    }
    Result<Finished> next(Instant deadline) override {
      if (lost) return fail(ErrorCode::unavailable, "device tablet is gone");
      if (!open) {
        std::this_thread::sleep_for(1ms);
        return fail(ErrorCode::deadline_exceeded, "not yet");
      }
      return ring_.next(deadline);
    }
    std::size_t in_flight() const override { return ring_.in_flight(); }
    Status reset(Instant deadline) override { return ring_.reset(deadline); }
    ring::RingDescription describe() const override { return ring_.describe(); }
    std::optional<std::string> reason_to_form_anew() override {
      return better ? std::optional<std::string>("with tablet it is faster") : std::nullopt;
    }

    std::atomic<bool> open{true};
    std::atomic<bool> lost{false};
    std::atomic<bool> better{false};
    std::atomic<int> steps{0};

   private:
    generate::FakeRing ring_;
  };

  HttpServerTest() : model_(make_model()) { form_ring(); }

  void form_ring() {
    generate::FakeRing::Options options;
    options.n_vocab = static_cast<std::uint32_t>(model_.tokenizer.n_vocab());
    options.n_ctx = 256;
    options.next_token = [this](const std::vector<std::int32_t>& history) {
      return vocabulary_.token(std::string(1, static_cast<char>('a' + history.size() % 26)));
    };
    ring = std::make_unique<GatedRing>(options, clock_);
  }

  ServedModel make_model() {
    auto tokenizer = text::Tokenizer::load(vocabulary_.path()).value();
    auto chat = text::ChatTemplate::load(tokenizer).value();
    return {.name = "toy",
            .tokenizer = std::move(tokenizer),
            .chat_template = std::move(chat),
            .max_context = 256,
            .n_embd = 3};
  }

  void start(HttpOptions options = {}, ServiceOptions service_options = {}) {
    options.port = 0;
    service = std::make_unique<Service>(service_options, clock_);
    http_ = HttpServer::start(options, *service, model_).value();
    port = http_->port();
  }

  // In a thread of its own, until the end of the test.
  void generate() {
    driver_ = std::thread([this] {
      generate::Engine engine(*ring, {256, 64}, clock_);
      generate::Batcher batcher(engine, model_.tokenizer, {}, clock_);
      driven = service->drive(batcher, *ring);
    });
    while (service->state().phase == ServiceState::Phase::loading) {
      std::this_thread::sleep_for(1ms);
    }
  }

  // Waits for the generating thread to end by itself.
  void join() { driver_.join(); }

  void TearDown() override {
    ring->open = true;
    if (service) service->drain();
    if (driver_.joinable()) driver_.join();
    http_.reset();
  }

  httplib::Client client() const {
    httplib::Client client("127.0.0.1", port);
    client.set_read_timeout(60s);
    return client;
  }

  httplib::Result post(const std::string& path, const std::string& body,
                       const httplib::Headers& headers = {}) const {
    return client().Post(path, headers, body, "application/json");
  }

  // Figures are written between steps, not with an answer.
  bool metrics_come_to_say(const std::string& text) const {
    for (int i = 0; i < 20000; ++i) {
      if (client().Get("/metrics")->body.find(text) != std::string::npos) return true;
      std::this_thread::sleep_for(1ms);
    }
    return false;
  }

  static constexpr const char* kChat = "/v1/chat/completions";
  static std::string chat_body(const std::string& more = "") {
    return R"({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5)" + more + "}";
  }

  text::TestVocabulary vocabulary_{
      "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]"};
  ManualClock clock_;
  ServedModel model_;
  std::unique_ptr<GatedRing> ring;
  std::unique_ptr<Service> service;
  Status driven;
  std::uint16_t port = 0;

 private:
  std::unique_ptr<HttpServer> http_;
  std::thread driver_;
};

TEST_F(HttpServerTest, FormsItsRingAnewBetweenRequestsWhereThatIsBetter) {
  start({}, {.replan_interval = 1ms});
  ring->open = false;
  generate();
  std::optional<int> status;
  std::thread asking([&] { status = post(kChat, chat_body())->status; });
  while (ring->steps == 0) std::this_thread::sleep_for(1ms);
  ring->better = true;
  std::this_thread::sleep_for(20ms);  // it would have asked by now
  EXPECT_EQ(service->state().phase, ServiceState::Phase::ready);
  ring->open = true;
  asking.join();
  EXPECT_EQ(status, 200);
  while (service->state().phase == ServiceState::Phase::ready) std::this_thread::sleep_for(1ms);
  EXPECT_THAT(client().Get("/health")->body, HasSubstr("with tablet it is faster"));
  join();
  EXPECT_TRUE(driven);
  form_ring();
  generate();
  EXPECT_EQ(post(kChat, chat_body())->status, 200);
}

TEST_F(HttpServerTest, IsNotReadyBeforeItIs) {
  start();
  service->loading("Loading 1 of 2 GiB");
  const auto health = client().Get("/health");
  ASSERT_TRUE(health);
  EXPECT_EQ(health->status, 503);
  EXPECT_TRUE(health->has_header("Retry-After"));
  EXPECT_THAT(health->body, HasSubstr("Loading 1 of 2 GiB"));
  const auto chat = post(kChat, chat_body());
  EXPECT_EQ(chat->status, 503);
  EXPECT_TRUE(chat->has_header("Retry-After"));
  EXPECT_THAT(chat->body, HasSubstr("Loading 1 of 2 GiB"));
  generate();
  EXPECT_EQ(client().Get("/health")->status, 200);
}

TEST_F(HttpServerTest, AnswersAChat) {
  start();
  generate();
  const auto response = post(kChat, chat_body(R"(, "temperature": 0)"));
  ASSERT_TRUE(response);
  ASSERT_EQ(response->status, 200) << response->body;
  const Json json = Json::parse(response->body);
  EXPECT_EQ(json["object"], "chat.completion");
  EXPECT_EQ(json["model"], "toy");
  EXPECT_EQ(json["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(json["choices"][0]["message"]["content"].get<std::string>().size(), 5u);
  EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(json["usage"]["completion_tokens"], 5);
  EXPECT_EQ(json["usage"]["total_tokens"].get<int>(),
            json["usage"]["prompt_tokens"].get<int>() + 5);
}

TEST_F(HttpServerTest, StreamsTheSame) {
  start();
  generate();
  const std::string same = R"(, "temperature": 0)";
  const Json whole = Json::parse(post(kChat, chat_body(same))->body);
  const auto response = post(
      kChat, chat_body(same + R"(, "stream": true, "stream_options": {"include_usage": true})"));
  ASSERT_EQ(response->status, 200);
  EXPECT_THAT(response->get_header_value("Content-Type"), HasSubstr("text/event-stream"));
  std::string content;
  std::string finish;
  Json usage;
  std::istringstream lines(response->body);
  std::string last;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty()) continue;
    ASSERT_TRUE(line.starts_with("data: ")) << line;
    last = line.substr(6);
    if (last == "[DONE]") continue;
    const Json chunk = Json::parse(last);
    EXPECT_EQ(chunk["object"], "chat.completion.chunk");
    if (chunk["choices"].empty()) {
      usage = chunk["usage"];
      continue;
    }
    content += chunk["choices"][0]["delta"].value("content", "");
    if (!chunk["choices"][0]["finish_reason"].is_null()) {
      finish = chunk["choices"][0]["finish_reason"];
    }
  }
  EXPECT_EQ(last, "[DONE]");
  EXPECT_EQ(content, whole["choices"][0]["message"]["content"]);
  EXPECT_EQ(finish, "length");
  EXPECT_EQ(usage["completion_tokens"], 5);
}

TEST_F(HttpServerTest, CompletionsOfSeveralPromptsAndChoices) {
  start();
  generate();
  const auto response = post("/v1/completions", R"({"prompt": ["hello", "world"], "n": 2,
      "max_tokens": 3, "logprobs": 2, "echo": true, "temperature": 0})");
  ASSERT_EQ(response->status, 200) << response->body;
  const Json json = Json::parse(response->body);
  ASSERT_EQ(json["choices"].size(), 4u);
  EXPECT_EQ(json["choices"][0]["text"].get<std::string>().substr(0, 5), "hello");
  EXPECT_EQ(json["choices"][3]["text"].get<std::string>().substr(0, 5), "world");
  const Json& logprobs = json["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["tokens"].size(), 3u);
  EXPECT_EQ(logprobs["top_logprobs"][0].size(), 2u);
  EXPECT_LT(logprobs["token_logprobs"][0].get<double>(), 0.0);
}

TEST_F(HttpServerTest, TokensOfATextAndBack) {
  start();
  const Json tokens = Json::parse(post("/tokenize", R"({"content": "hello world"})")->body);
  EXPECT_GE(tokens["tokens"].size(), 2u);
  const Json text =
      Json::parse(post("/detokenize", Json{{"tokens", tokens["tokens"]}}.dump())->body);
  EXPECT_THAT(text["content"].get<std::string>(), HasSubstr("hello world"));
  EXPECT_EQ(post("/detokenize", R"({"tokens": [100000]})")->status, 400);
}

TEST_F(HttpServerTest, EmbeddingsOfTextsAndTokens) {
  start();
  generate();
  const auto ask = [&](const std::string& body) {
    const auto response = post("/v1/embeddings", body);
    EXPECT_EQ(response->status, 200) << response->body;
    return Json::parse(response->body);
  };
  const Json two = ask(R"({"input": ["hello", "other"], "model": "toy"})");
  ASSERT_EQ(two["data"].size(), 2u);
  EXPECT_EQ(two["object"], "list");
  EXPECT_EQ(two["data"][1]["index"], 1);
  const auto first = two["data"][0]["embedding"].get<std::vector<float>>();
  ASSERT_EQ(first.size(), model_.n_embd);
  EXPECT_NEAR(first[0] * first[0] + first[1] * first[1] + first[2] * first[2], 1.0f, 1e-5);
  EXPECT_NE(two["data"][0]["embedding"], two["data"][1]["embedding"]);

  // More texts than are submitted at once, and more tokens than a step has.
  Json many = {{"input", Json::array()}};
  for (int i = 0; i < 100; ++i) many["input"].push_back(i == 50 ? "hello" : std::string(100, 'a'));
  const Json answers = ask(many.dump());
  ASSERT_EQ(answers["data"].size(), 100u);
  EXPECT_EQ(answers["data"][50]["embedding"], two["data"][0]["embedding"]);
  EXPECT_EQ(answers["usage"]["prompt_tokens"], answers["usage"]["total_tokens"]);

  // As OpenAI's clients ask for them.
  const Json coded = ask(R"({"input": "hello", "encoding_format": "base64"})");
  EXPECT_EQ(coded["data"][0]["embedding"], base64_of(first));
  EXPECT_EQ(base64_of({1.0f}), "AACAPw==");
  EXPECT_EQ(base64_of({1.0f, -2.0f}), "AACAPwAAAMA=");
  EXPECT_EQ(base64_of({1.0f, -2.0f, 0.5f}), "AACAPwAAAMAAAAA/");

  const Json tokens = Json::parse(post("/tokenize", R"({"content": "hello"})")->body)["tokens"];
  EXPECT_EQ(ask(Json{{"input", tokens}}.dump())["data"].size(), 1u);
  for (const char* bad :
       {R"({"input": ""})", R"({"input": []})", R"({})", R"({"input": [99999]})",
        R"({"input": "a", "encoding_format": "hex"})", R"({"input": "a", "dimensions": 2})",
        R"({"input": "a", "dimensions": -1})"}) {
    EXPECT_EQ(post("/v1/embeddings", bad)->status, 400) << bad;
  }
  const std::string large = Json{{"input", std::string(1000, 'a')}}.dump();
  EXPECT_THAT(post("/v1/embeddings", large)->body, testing::HasSubstr("context_length_exceeded"));
  EXPECT_EQ(post("/v1/embeddings", R"({"input": "a", "model": "other"})")->status, 404);

  model_.pooling = model::Pooling::rank;
  EXPECT_THAT(post("/v1/embeddings", R"({"input": "a"})")->body, testing::HasSubstr("rank"));
}

TEST_F(HttpServerTest, ModelsAndMetrics) {
  start();
  generate();
  EXPECT_EQ(Json::parse(client().Get("/v1/models")->body)["data"][0]["id"], "toy");
  EXPECT_EQ(Json::parse(client().Get("/v1/models/toy")->body)["id"], "toy");
  EXPECT_EQ(client().Get("/v1/models/other")->status, 404);
  post(kChat, chat_body());
  const auto metrics = client().Get("/metrics");
  EXPECT_THAT(metrics->body, HasSubstr("prima_requests_total{outcome=\"max_tokens\"} 1\n"));
  EXPECT_THAT(metrics->body, HasSubstr("prima_ready 1\n"));
}

TEST_F(HttpServerTest, BadRequestsGetTheRightStatusAndAMessage) {
  start();
  generate();
  struct Case {
    std::string path;
    std::string body;
    int status;
    std::string says;
  };
  const Case cases[] = {
      {kChat, "{", 400, "not JSON"},
      {kChat, R"({"messages": "hello"})", 400, "messages"},
      {kChat, chat_body(R"(, "model": "other")"), 404, "other"},
      {kChat, chat_body(R"(, "max_tokens": -5)"), 400, "max_tokens"},
      {kChat, chat_body(R"(, "logit_bias": {"99999": 1})"), 400, "99999"},
      {kChat, "{\"messages\": [{\"role\": \"user\", \"content\": \"\xC3\x28\"}]}", 400, "UTF-8"},
      {"/v1/completions", R"({"prompt": ")" + std::string(3000, 'x') + "\"}", 400, "256"},
      {"/v1/completions", R"({"prompt": [70000]})", 400, "70000"},
      {"/v1/completions", R"({"prompt": ")" + std::string(10 << 20, 'x') + "\"}", 413, "bytes"},
      {"/v1/embeddings", R"({"input": ""})", 400, "empty"},
      {"/v1/nothing", "{}", 404, "nothing"},
  };
  for (const Case& bad : cases) {
    const auto response = post(bad.path, bad.body);
    ASSERT_TRUE(response) << bad.path << " " << bad.body.substr(0, 80);
    EXPECT_EQ(response->status, bad.status) << response->body;
    const Json error = Json::parse(response->body)["error"];
    EXPECT_THAT(error["message"].get<std::string>(), HasSubstr(bad.says));
    EXPECT_TRUE(error.contains("type") && error.contains("param") && error.contains("code"));
  }
  EXPECT_EQ(client().Get(kChat)->status, 404);
  httplib::Headers flood;
  for (int i = 0; i < 500; ++i) flood.emplace("X-" + std::to_string(i), "y");
  const auto flooded = client().Get("/health", flood);
  EXPECT_TRUE(!flooded || flooded->status >= 400);
  const httplib::Headers long_one = {{"X", std::string(100000, 'y')}};
  const auto too_long = client().Get("/health", long_one);
  EXPECT_TRUE(!too_long || too_long->status >= 400);
  EXPECT_EQ(client().Get("/health")->status, 200);
}

TEST_F(HttpServerTest, KeysAndWebPages) {
  start({.api_keys = {"secret", "other"}, .cors_origin = "https://example.org"});
  generate();
  EXPECT_EQ(post(kChat, chat_body())->status, 401);
  EXPECT_EQ(post(kChat, chat_body(), {{"Authorization", "Bearer wrong"}})->status, 401);
  EXPECT_EQ(post(kChat, chat_body(), {{"Authorization", "Bearer secre"}})->status, 401);
  EXPECT_EQ(post(kChat, chat_body(), {{"Authorization", "secret"}})->status, 401);
  EXPECT_EQ(post(kChat, chat_body(), {{"Authorization", "Bearer other"}})->status, 200);
  EXPECT_EQ(client().Get("/health")->status, 200);
  EXPECT_EQ(client().Get("/metrics")->status, 401);
  const auto preflight = client().Options(kChat);
  EXPECT_EQ(preflight->status, 204);
  EXPECT_EQ(preflight->get_header_value("Access-Control-Allow-Origin"), "https://example.org");
  EXPECT_THAT(preflight->get_header_value("Access-Control-Allow-Headers"), HasSubstr("Author"));
}

TEST_F(HttpServerTest, WhoLeavesEndsTheRequest) {
  start();
  generate();
  int n_left = 0;
  for (const char* stream : {"true", "false"}) {
    ring->open = false;
    httplib::Client leaving("127.0.0.1", port);
    leaving.set_read_timeout(0, 300000);
    EXPECT_FALSE(leaving.Post(kChat, chat_body(std::string(R"(, "stream": )") + stream),
                              "application/json"));
    leaving.stop();
    const std::string cancelled =
        "prima_requests_total{outcome=\"cancelled\"} " + std::to_string(++n_left) + "\n";
    EXPECT_TRUE(metrics_come_to_say(cancelled));
    ring->open = true;
    EXPECT_EQ(post(kChat, chat_body())->status, 200);
  }
  // The answer is out before the figures are.
  EXPECT_TRUE(metrics_come_to_say("prima_requests_running 0\n"));
}

// A client that does as it likes with its bytes.
class RawClient {
 public:
  explicit RawClient(std::uint16_t port, int receive_buffer = 0)
      : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer > 0) {
      ::setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    }
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  ~RawClient() { ::close(socket_); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool send(std::string_view bytes) const {
    return ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
  }
  bool is_closed() const {  // by the server
    char byte = 0;
    return ::recv(socket_, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0 ||
           (errno != EAGAIN && errno != EWOULDBLOCK);
  }
  std::string read_all() const {
    std::string all;
    std::array<char, 65536> piece;
    for (ssize_t n = 0; (n = ::recv(socket_, piece.data(), piece.size(), 0)) > 0;) {
      all.append(piece.data(), static_cast<std::size_t>(n));
    }
    return all;
  }

 private:
  const int socket_;
};

TEST_F(HttpServerTest, WhoSendsARequestByteByByteIsGivenUp) {
  HttpOptions options;
  options.limits.request = 1s;
  start(options);
  generate();
  // Each sends often enough, but headers or a body without end.
  std::deque<RawClient> slow;
  for (int i = 0; i < 40; ++i) {
    slow.emplace_back(port).send(i % 2 == 0
                                     ? "GET /health HTTP/1.1\r\nX: "
                                     : "POST /tokenize HTTP/1.1\r\nContent-Length: 99999\r\n\r\n");
  }
  const auto started = std::chrono::steady_clock::now();
  std::size_t closed = 0;
  while (closed < slow.size() && std::chrono::steady_clock::now() < started + 20s) {
    EXPECT_EQ(post(kChat, chat_body())->status, 200) << "others are answered meanwhile";
    closed = 0;
    for (const RawClient& client : slow) {
      client.send("y");
      const bool answered = !client.is_closed();
      closed += !answered;
    }
    std::this_thread::sleep_for(50ms);
  }
  EXPECT_EQ(closed, slow.size());
}

TEST_F(HttpServerTest, WhoReadsSlowlyHoldsNobodyUpAndIsGivenUp) {
  HttpOptions options;
  options.limits.write = 1s;
  start(options);
  generate();
  // Megabytes of answers, more than the sockets' buffers hold, of which nothing is read.
  const std::string body =
      R"({"prompt": ")" + std::string(20, 'a') +
      R"(", "n": 16, "logprobs": 20, "stream": true, "max_tokens": 230, "ignore_eos": true})";
  const RawClient slow(port, 4096);
  ASSERT_TRUE(slow.send("POST /v1/completions HTTP/1.1\r\nContent-Length: " +
                        std::to_string(body.size()) + "\r\n\r\n" + body));
  while (ring->steps == 0) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(post(kChat, chat_body())->status, 200);
  // What it asked for is written, or given up with it, but keeps no place.
  EXPECT_TRUE(metrics_come_to_say("prima_requests_running 0\n"));
  std::this_thread::sleep_for(2s);  // longer than the limit
  const std::string received = slow.read_all();
  EXPECT_FALSE(received.empty());
  EXPECT_THAT(received, testing::Not(HasSubstr("[DONE]"))) << "the connection was not given up";
}

TEST_F(HttpServerTest, HeadersWithoutEndAreCutOff) {
  start();
  generate();
  for (const std::string& header : {std::string(1000, 'y'), std::string("X: y\r\n")}) {
    const RawClient flood(port);
    flood.send("GET /health HTTP/1.1\r\n");
    for (int i = 0; i < 20000 && flood.send(header); ++i) {
    }
    EXPECT_THAT(flood.read_all(), testing::Not(HasSubstr("200 OK"))) << "and the end of it comes";
  }
  EXPECT_EQ(client().Get("/health")->status, 200);
}

TEST_F(HttpServerTest, BeyondTheQueueIsTooMany) {
  start({}, {.max_pending = 2});
  generate();
  ring->open = false;
  std::thread first([&] { EXPECT_EQ(post(kChat, chat_body(R"(, "n": 2)"))->status, 200); });
  while (ring->steps == 0) std::this_thread::sleep_for(1ms);
  const auto refused = post(kChat, chat_body());
  EXPECT_EQ(refused->status, 429);
  EXPECT_TRUE(refused->has_header("Retry-After"));
  ring->open = true;
  first.join();
  EXPECT_EQ(post(kChat, chat_body())->status, 200);
}

TEST_F(HttpServerTest, DrainingFinishesWhatRunsAndTakesNothingNew) {
  start();
  generate();
  ring->open = false;
  std::thread running([&] { EXPECT_EQ(post(kChat, chat_body())->status, 200); });
  while (ring->steps == 0) std::this_thread::sleep_for(1ms);
  service->drain();
  EXPECT_EQ(post(kChat, chat_body())->status, 503);
  EXPECT_EQ(client().Get("/health")->status, 503);
  ring->open = true;
  running.join();
}

TEST_F(HttpServerTest, AnswersThatOutlastTheDrainAreTold) {
  start({}, {.drain_limit = 0ms});
  generate();
  ring->open = false;
  std::thread running([&] {
    const auto response = post(kChat, chat_body(R"(, "stream": true)"));
    EXPECT_THAT(response->body, HasSubstr("shutting down"));
  });
  while (ring->steps == 0) std::this_thread::sleep_for(1ms);
  service->drain();
  running.join();
}

TEST_F(HttpServerTest, ALostRingIsToldAndServedAgainOnceThereIsOne) {
  start();
  generate();
  ring->open = false;
  std::thread running([&] {
    const auto response = post(kChat, chat_body());
    EXPECT_EQ(response->status, 503);
    EXPECT_THAT(response->body, HasSubstr("tablet"));
  });
  while (ring->steps == 0) std::this_thread::sleep_for(1ms);
  ring->lost = true;
  running.join();
  EXPECT_EQ(client().Get("/health")->status, 503);
}

}  // namespace
}  // namespace prima::server

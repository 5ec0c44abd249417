#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace prima::server {
namespace {

using testing::HasSubstr;
using namespace std::chrono_literals;

TEST(Metrics, ArePrometheusText) {
  Metrics metrics;
  generate::Answer answer;
  answer.statistics = {
      .n_prompt = 10, .n_generated = 3, .time_to_first_token = 60ms, .decoding = 40ms};
  metrics.count_answer(answer);
  metrics.count_request("refused");
  metrics.set_batcher({.queued = 4,
                       .drafted_tokens = 10,
                       .accepted_tokens = 7,
                       .guessed_ahead_tokens = 5,
                       .computing = {2s, 3s}});
  metrics.set_ring({.devices = {{.name = "head",
                                 .address = "",
                                 .state = "serving",
                                 .windows = {},
                                 .memory = {.weights = 1000}},
                                {.name = "a \"quoted\" one",
                                 .address = "",
                                 .state = "serving",
                                 .windows = {},
                                 .memory = {}}}},
                   Instant(1s));
  const std::string text = metrics.print(true, Instant(11s));
  EXPECT_THAT(text, HasSubstr("prima_requests_total{outcome=\"end\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("prima_requests_total{outcome=\"refused\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("prima_time_to_first_token_seconds_bucket{le=\"0.05\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("prima_time_to_first_token_seconds_bucket{le=\"0.1\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("prima_time_per_output_token_seconds_bucket{le=\"0.025\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("prima_requests_queued 4\n"));
  EXPECT_THAT(text, HasSubstr("prima_draft_acceptance_ratio 0.7\n"));
  EXPECT_THAT(text, HasSubstr("prima_guessed_ahead_tokens_total 5\n"));
  EXPECT_THAT(text, HasSubstr("prima_device_compute_seconds_total{device=\"head\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("prima_device_idle_seconds_total{device=\"head\"} 8\n"));
  EXPECT_THAT(text, HasSubstr("device=\"a \\\"quoted\\\" one\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("kind=\"weights\"} 1000\n"));
  EXPECT_TRUE(text.ends_with('\n'));
}

}  // namespace
}  // namespace prima::server

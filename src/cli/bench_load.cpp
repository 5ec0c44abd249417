#include "cli/bench_load.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <thread>

#include <spdlog/fmt/fmt.h>

#include "server/api_client.h"

namespace prima::cli {

namespace {

// Different for each request, so that no prefix is shared, and the same in each run.
std::string random_prompt(std::uint32_t n_words, std::mt19937& random) {
  static constexpr std::array<const char*, 16> kWords = {
      "river", "stone", "light",  "seven", "garden",  "paper", "under",  "green",
      "house", "often", "bright", "table", "morning", "water", "silver", "north"};
  std::string text;
  for (std::uint32_t i = 0; i < n_words; ++i)
    text += kWords[random() % kWords.size()] + std::string(" ");
  return text + "and";
}

BenchUser run_user(const BenchLoad& load, std::uint32_t user, const Clock& clock,
                   const std::function<bool()>& cancelled) {
  BenchUser seen;
  std::mt19937 random(load.seed * 1000003 + user);
  auto client = server::ApiClient::create(load.url, load.api_key, clock);
  if (!client) {
    seen.errors.push_back(client.error().message());
    return seen;
  }
  std::uniform_real_distribution<double> uniform;
  for (std::uint32_t i = 0; i < load.requests && !cancelled(); ++i) {
    const server::Json request = {{"prompt", random_prompt(load.prompt_words, random)},
                                  {"max_tokens", load.tokens},
                                  {"temperature", 0},
                                  {"ignore_eos", true}};
    // Some leave before the first token, some in the middle of the answer.
    const bool leaves = uniform(random) < load.leaving;
    const auto leave_after = static_cast<std::uint32_t>(random() % std::max(1u, load.tokens));
    std::uint32_t heard = 0;
    const auto answer = client->ask("/v1/completions", request, [&](std::string_view) {
      return !leaves || ++heard <= leave_after;
    });
    if (!answer) {
      seen.errors.push_back(answer.error().message());
      continue;
    }
    if (answer->left) {
      ++seen.left;
      continue;
    }
    ++seen.finished;
    seen.busy += answer->total;
    seen.prompt_tokens += answer->n_prompt;
    seen.tokens += answer->n_generated;
    seen.time_to_first_token.push_back(answer->time_to_first_token);
    if (answer->n_generated > 1) {
      seen.time_per_output_token.push_back(answer->time_per_output_token());
    }
  }
  return seen;
}

struct Percentiles {
  double p50 = 0.0;
  double p90 = 0.0;
  double p99 = 0.0;
  double most = 0.0;
};

// In milliseconds, by the nearest rank.
Percentiles percentiles(std::vector<Duration> durations) {
  if (durations.empty()) return {};
  std::ranges::sort(durations);
  const auto at = [&](double part) {
    const auto rank = std::ceil(part * static_cast<double>(durations.size()));
    return milliseconds(durations[static_cast<std::size_t>(std::max(1.0, rank)) - 1]);
  };
  return {at(0.5), at(0.9), at(0.99), milliseconds(durations.back())};
}

struct Totals {
  BenchUser all;         // of all users together
  double slowest = 0.0;  // tokens per second of a user
  double fastest = 0.0;
};

Totals add_up(const BenchResult& result) {
  Totals totals;
  bool first = true;
  for (const BenchUser& user : result.users) {
    const auto append = [](auto& to, const auto& from) {
      to.insert(to.end(), from.begin(), from.end());
    };
    append(totals.all.time_to_first_token, user.time_to_first_token);
    append(totals.all.time_per_output_token, user.time_per_output_token);
    append(totals.all.errors, user.errors);
    totals.all.prompt_tokens += user.prompt_tokens;
    totals.all.tokens += user.tokens;
    totals.all.finished += user.finished;
    totals.all.left += user.left;
    if (user.busy <= Duration{}) continue;
    const double rate = static_cast<double>(user.tokens) / seconds(user.busy);
    totals.slowest = first ? rate : std::min(totals.slowest, rate);
    totals.fastest = first ? rate : std::max(totals.fastest, rate);
    first = false;
  }
  return totals;
}

}  // namespace

BenchResult run_bench(const BenchLoad& load, const Clock& clock,
                      const std::function<bool()>& cancelled) {
  BenchResult result;
  result.users.resize(load.users);
  const Instant started = clock.now();
  std::vector<std::thread> threads;
  for (std::uint32_t user = 0; user < load.users; ++user) {
    threads.emplace_back(
        [&, user] { result.users[user] = run_user(load, user, clock, cancelled); });
  }
  for (std::thread& thread : threads) thread.join();
  result.elapsed = clock.now() - started;
  return result;
}

std::string describe(const BenchResult& result) {
  const Totals t = add_up(result);
  const Percentiles first = percentiles(t.all.time_to_first_token);
  const Percentiles each = percentiles(t.all.time_per_output_token);
  const double elapsed = std::max(1e-9, seconds(result.elapsed));
  std::string text = fmt::format(
      "{} users, {} answers finished, {} left, {} failed in {:.1f} s\n"
      "             p50        p90        p99        most\n"
      "TTFT  {:>10.1f} {:>10.1f} {:>10.1f} {:>10.1f}  ms\n"
      "TPOT  {:>10.2f} {:>10.2f} {:>10.2f} {:>10.2f}  ms\n"
      "Throughput: {:.2f} tokens/s written, {:.1f} tokens/s of prompts, {:.2f} answers/s\n"
      "A user's tokens/s: {:.2f} (slowest) to {:.2f} (fastest)\n",
      result.users.size(), t.all.finished, t.all.left, t.all.errors.size(), elapsed, first.p50,
      first.p90, first.p99, first.most, each.p50, each.p90, each.p99, each.most,
      static_cast<double>(t.all.tokens) / elapsed,
      static_cast<double>(t.all.prompt_tokens) / elapsed, t.all.finished / elapsed, t.slowest,
      t.fastest);
  if (!t.all.errors.empty()) text += "The first failure: " + t.all.errors.front() + "\n";
  return text;
}

server::Json json_report(const BenchLoad& load, const BenchResult& result) {
  const Totals t = add_up(result);
  const auto json = [](const Percentiles& p) {
    return server::Json{{"p50", p.p50}, {"p90", p.p90}, {"p99", p.p99}, {"most", p.most}};
  };
  const double elapsed = std::max(1e-9, seconds(result.elapsed));
  return {
      {"users", load.users},
      {"requests_per_user", load.requests},
      {"tokens_per_answer", load.tokens},
      {"elapsed_s", elapsed},
      {"finished", t.all.finished},
      {"left", t.all.left},
      {"failed", t.all.errors.size()},
      {"first_failure", t.all.errors.empty() ? server::Json() : server::Json(t.all.errors.front())},
      {"ttft_ms", json(percentiles(t.all.time_to_first_token))},
      {"tpot_ms", json(percentiles(t.all.time_per_output_token))},
      {"tokens_per_second", static_cast<double>(t.all.tokens) / elapsed},
      {"prompt_tokens_per_second", static_cast<double>(t.all.prompt_tokens) / elapsed},
      {"slowest_user_tokens_per_second", t.slowest},
      {"fastest_user_tokens_per_second", t.fastest}};
}

}  // namespace prima::cli

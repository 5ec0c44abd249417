// Users of a server, each asking one question after another, and what they saw.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "server/json_fields.h"

namespace prima::cli {

struct BenchLoad {
  std::string url = "http://127.0.0.1:8080";
  std::string api_key;
  std::uint32_t users = 8;
  std::uint32_t requests = 1;  // of each user
  std::uint32_t prompt_words = 64;
  std::uint32_t tokens = 64;  // of each answer
  double leaving = 0.0;       // part of the requests whose client leaves midway
  std::uint32_t seed = 1;
};

struct BenchUser {
  std::vector<Duration> time_to_first_token;
  std::vector<Duration> time_per_output_token;
  std::uint64_t prompt_tokens = 0;
  std::uint64_t tokens = 0;
  std::uint32_t finished = 0;
  std::uint32_t left = 0;
  Duration busy{};  // in requests that finished
  std::vector<std::string> errors;
};

struct BenchResult {
  std::vector<BenchUser> users;
  Duration elapsed{};
};

// Runs the load to its end, or until `cancelled`, which is asked between requests.
BenchResult run_bench(const BenchLoad& load, const Clock& clock,
                      const std::function<bool()>& cancelled);

// For people, and for programs.
std::string describe(const BenchResult& result);
server::Json json_report(const BenchLoad& load, const BenchResult& result);

}  // namespace prima::cli

// What an answer cost: one line for people, a file for programs.
#pragma once

#include <cstdint>
#include <string>

#include "base/clock.h"
#include "generate/answer.h"
#include "ring/ring.h"

namespace prima::cli {

// On standard error; a second line where the context ended the answer.
void print_figures(const generate::Answer& answer, const ring::RingDescription& ring,
                   std::uint32_t n_ctx);

struct RunReport {
  std::string model;
  std::uint32_t seed = 0;
  std::uint32_t n_ctx = 0;
  Duration loading{};  // from the start of the command until the ring could answer
};

// The content of --json's file; docs in the help of `prima run`.
std::string json_report(const RunReport& run, const generate::Answer& answer,
                        const ring::RingDescription& ring);

}  // namespace prima::cli

#include "cli/run_report.h"

#include <cstdio>

#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include "base/units.h"

namespace prima::cli {

namespace {

using nlohmann::ordered_json;

std::vector<text::Token> token_ids(const generate::Answer& answer) {
  std::vector<text::Token> ids;
  for (const generate::AnswerToken& token : answer.tokens) ids.push_back(token.token);
  return ids;
}

compute::ExecutorMemory total_memory(const ring::RingDescription& ring) {
  compute::ExecutorMemory total;
  for (const ring::DeviceDescription& device : ring.devices) {
    total.weights += device.memory.weights;
    total.kv_cache += device.memory.kv_cache;
    total.compute_buffers += device.memory.compute_buffers;
    total.gpu += device.memory.gpu;
    total.slots += device.memory.slots;
    total.streamed += device.memory.streamed;
    total.budget += device.memory.budget;
    total.program += device.memory.program;
  }
  return total;
}

// The most that this process ever had in memory.
Bytes peak_resident_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
  return static_cast<Bytes>(usage.ru_maxrss);
#else
  return static_cast<Bytes>(usage.ru_maxrss) * kKiB;
#endif
}

ordered_json to_json(const compute::ExecutorMemory& memory) {
  return {{"weights", memory.weights},
          {"kv_cache", memory.kv_cache},
          {"compute_buffers", memory.compute_buffers},
          {"gpu", memory.gpu},
          {"slots", memory.slots},
          {"streamed_per_token", memory.streamed},
          {"budget", memory.budget > 0 ? ordered_json(memory.budget) : ordered_json()},
          {"program", memory.program}};
}

ordered_json to_json(const std::vector<compute::LayerRange>& windows) {
  ordered_json result = ordered_json::array();
  for (const compute::LayerRange& window : windows) {
    result.push_back(ordered_json::array({window.first, window.last}));
  }
  return result;
}

// null instead of a figure that was not measured.
ordered_json measured(double value) { return value > 0.0 ? ordered_json(value) : ordered_json(); }

}  // namespace

void print_figures(const generate::Answer& answer, const ring::RingDescription& ring,
                   std::uint32_t n_ctx) {
  const generate::Statistics& s = answer.statistics;
  const compute::ExecutorMemory memory = total_memory(ring);
  std::string line;
  const auto add = [&line](const char* format, auto... values) {
    char text[128];
    std::snprintf(text, sizeof text, format, values...);
    line += (line.empty() ? "" : ", ") + std::string(text);
  };
  if (s.n_generated > 0) add("TTFT %.0f ms", milliseconds(s.time_to_first_token));
  if (s.n_generated > 1) {
    add("TPOT %.1f ms (%.2f tokens/s)", milliseconds(s.time_per_output_token()),
        s.decode_tokens_per_second());
  }
  add("prompt %u tokens", s.n_prompt);
  if (s.n_reused > 0) add("%u of them reused", s.n_reused);
  if (s.n_generated > 0) add("prefill %.1f tokens/s", s.prefill_tokens_per_second());
  add("answer %zu tokens", answer.tokens.size());
  if (s.n_drafted > 0) add("drafted %u tokens, %u right", s.n_drafted, s.n_accepted);
  line += ", memory " + format_bytes(memory.weights + memory.kv_cache + memory.compute_buffers) +
          " (weights " + format_bytes(memory.weights) + ", KV cache " +
          format_bytes(memory.kv_cache) + ")";
  if (memory.streamed > 0) line += ", " + format_bytes(memory.streamed) + " from disk per token";
  if (ring.devices.size() > 1) line += " on " + std::to_string(ring.devices.size()) + " devices";
  std::fprintf(stderr, "%s\n", line.c_str());
  if (answer.finish == generate::FinishReason::context_full) {
    std::fprintf(stderr,
                 "The answer ends here because the context of %u tokens is full. A larger one: "
                 "-c\n",
                 n_ctx);
  }
}

std::string json_report(const RunReport& run, const generate::Answer& answer,
                        const ring::RingDescription& ring) {
  const generate::Statistics& s = answer.statistics;
  ordered_json devices = ordered_json::array();
  ordered_json plan_devices = ordered_json::array();
  for (const ring::DeviceDescription& device : ring.devices) {
    devices.push_back(
        {{"name", device.name}, {"address", device.address}, {"memory", to_json(device.memory)}});
    plan_devices.push_back({{"name", device.name}, {"windows", to_json(device.windows)}});
  }
  ordered_json memory = to_json(total_memory(ring));
  memory["head_peak_resident"] = peak_resident_bytes();

  const ordered_json report = {
      {"model", run.model},
      {"text", answer.text},
      {"tokens", token_ids(answer)},
      {"finish_reason", generate::to_string(answer.finish)},
      {"prompt_tokens", s.n_prompt},
      {"reused_prompt_tokens", s.n_reused},
      {"seed", run.seed},
      {"n_ctx", run.n_ctx},
      {"load_ms", milliseconds(run.loading)},
      {"ttft_ms", measured(milliseconds(s.time_to_first_token))},
      {"tpot_ms", measured(milliseconds(s.time_per_output_token()))},
      {"prefill_tokens_per_second", measured(s.prefill_tokens_per_second())},
      {"decode_tokens_per_second", measured(s.decode_tokens_per_second())},
      {"drafted_tokens", s.n_drafted},
      {"accepted_tokens", s.n_accepted},
      {"devices", devices},
      {"plan", {{"rounds", ring.rounds}, {"devices", plan_devices}}},
      {"memory", memory},
  };
  // Names of files and devices may be no UTF-8.
  return report.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace prima::cli

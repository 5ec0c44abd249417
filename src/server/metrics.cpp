#include "server/metrics.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include <spdlog/fmt/fmt.h>

namespace prima::server {

namespace {

void head(std::string& out, std::string_view name, std::string_view type, std::string_view help) {
  out += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

template <typename T>
void single(std::string& out, std::string_view name, std::string_view type, std::string_view help,
            T value) {
  head(out, name, type, help);
  out += fmt::format("{} {}\n", name, value);
}

// As label values are written: backslash, quote and newline escaped.
std::string label(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '\\' || c == '"') escaped += '\\';
    escaped += c == '\n' ? ' ' : c;
  }
  return escaped;
}

}  // namespace

void LatencyHistogram::observe(Duration duration) {
  const double value = seconds(duration);
  const auto bound = std::lower_bound(kBounds.begin(), kBounds.end(), value);
  ++counts_[static_cast<std::size_t>(bound - kBounds.begin())];
  sum_ += value;
}

void LatencyHistogram::print(const char* name, const char* help, std::string& out) const {
  head(out, name, "histogram", help);
  std::uint64_t below = 0;
  for (std::size_t i = 0; i < kBounds.size(); ++i) {
    below += counts_[i];
    out += fmt::format("{}_bucket{{le=\"{}\"}} {}\n", name, kBounds[i], below);
  }
  below += counts_.back();
  out += fmt::format("{}_bucket{{le=\"+Inf\"}} {}\n{}_sum {}\n{}_count {}\n", name, below, name,
                     sum_, name, below);
}

void Metrics::count_request(const char* outcome) { ++requests_[outcome]; }

void Metrics::count_answer(const generate::Answer& answer) {
  const generate::Statistics& statistics = answer.statistics;
  count_request(generate::to_string(answer.finish));
  if (statistics.n_generated == 0) return;
  queue_time_.observe(statistics.queued);
  time_to_first_token_.observe(statistics.time_to_first_token);
  if (statistics.n_generated > 1) {
    time_per_output_token_.observe(statistics.time_per_output_token());
  }
}

void Metrics::set_batcher(const generate::BatcherStatistics& statistics) { batcher_ = statistics; }

void Metrics::set_ring(ring::RingDescription ring, Instant serving_since) {
  ring_ = std::move(ring);
  serving_since_ = serving_since;
}

std::string Metrics::print(bool ready, Instant now) const {
  std::string out;
  single(out, "prima_ready", "gauge", "Whether requests are answered", ready ? 1 : 0);
  head(out, "prima_requests_total", "counter", "Answers, by why they ended");
  for (const auto& [outcome, n] : requests_) {
    out += fmt::format("prima_requests_total{{outcome=\"{}\"}} {}\n", outcome, n);
  }
  time_to_first_token_.print("prima_time_to_first_token_seconds",
                             "From the request to its first token", out);
  time_per_output_token_.print("prima_time_per_output_token_seconds",
                               "Between tokens of an answer, on average", out);
  queue_time_.print("prima_queue_seconds", "From the request until its prompt was begun", out);

  const generate::BatcherStatistics& b = batcher_;
  single(out, "prima_prompt_tokens_total", "counter", "Tokens of prompts", b.prompt_tokens);
  single(out, "prima_reused_tokens_total", "counter",
         "Tokens of prompts whose keys and values were there already", b.reused_tokens);
  single(out, "prima_generated_tokens_total", "counter", "Tokens sampled", b.generated_tokens);
  single(out, "prima_drafted_tokens_total", "counter", "Tokens guessed and verified",
         b.drafted_tokens);
  single(out, "prima_accepted_tokens_total", "counter", "Of them, those that were right",
         b.accepted_tokens);
  single(out, "prima_guessed_ahead_tokens_total", "counter",
         "Tokens guessed while the ring verified those before", b.guessed_ahead_tokens);
  single(out, "prima_drafted_ahead_tokens_total", "counter",
         "Of those drafted, the ones that had been guessed ahead", b.drafted_ahead_tokens);
  single(out, "prima_draft_acceptance_ratio", "gauge", "Drafted tokens that were right",
         b.drafted_tokens == 0
             ? 0.0
             : static_cast<double>(b.accepted_tokens) / static_cast<double>(b.drafted_tokens));
  single(out, "prima_steps_total", "counter", "Steps round the ring", b.steps);
  single(out, "prima_preemptions_total", "counter", "Answers that gave their KV cells up",
         b.preemptions);
  single(out, "prima_requests_queued", "gauge", "Requests that wait", b.queued);
  single(out, "prima_requests_running", "gauge", "Requests being computed", b.running);
  single(out, "prima_kv_cells", "gauge", "Cells of the KV cache", b.cells);
  single(out, "prima_kv_cells_used", "gauge", "Of them, those with keys and values",
         b.cells - b.free_cells);

  const auto name = [&](std::size_t device) {
    return device < ring_.devices.size() ? label(ring_.devices[device].name)
                                         : std::to_string(device);
  };
  const double serving = serving_since_ == Instant{} ? 0.0 : seconds(now - serving_since_);
  head(out, "prima_device_compute_seconds_total", "counter",
       "Time a device worked on layers, waiting for its disk not included");
  for (std::size_t i = 0; i < b.computing.size(); ++i) {
    out += fmt::format("prima_device_compute_seconds_total{{device=\"{}\"}} {}\n", name(i),
                       seconds(b.computing[i]));
  }
  head(out, "prima_device_idle_seconds_total", "counter", "Time a device had nothing to compute");
  for (std::size_t i = 0; i < b.computing.size(); ++i) {
    out += fmt::format("prima_device_idle_seconds_total{{device=\"{}\"}} {}\n", name(i),
                       std::max(0.0, serving - seconds(b.computing[i])));
  }
  head(out, "prima_device_memory_bytes", "gauge", "Memory of a device, by what for");
  for (const ring::DeviceDescription& device : ring_.devices) {
    const auto& m = device.memory;
    const std::pair<const char*, Bytes> kinds[] = {{"weights", m.weights},
                                                   {"kv_cache", m.kv_cache},
                                                   {"compute_buffers", m.compute_buffers},
                                                   {"gpu", m.gpu}};
    for (const auto& [kind, bytes] : kinds) {
      out += fmt::format("prima_device_memory_bytes{{device=\"{}\",kind=\"{}\"}} {}\n",
                         label(device.name), kind, bytes);
    }
  }
  head(out, "prima_device_streamed_bytes", "gauge", "Weights a device reads from disk for a step");
  for (const ring::DeviceDescription& device : ring_.devices) {
    out += fmt::format("prima_device_streamed_bytes{{device=\"{}\"}} {}\n", label(device.name),
                       device.memory.streamed);
  }
  single(out, "prima_output_layer_seconds_total", "counter", "Time in the output layer",
         seconds(b.output_layer));
  single(out, "prima_network_seconds_total", "counter",
         "Time of steps between devices, of all steps together", seconds(b.travelling));
  return out;
}

}  // namespace prima::server

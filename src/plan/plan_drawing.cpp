#include "plan/plan_drawing.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

namespace prima::plan {
namespace {

std::string milliseconds(double seconds) {
  char text[32];
  const double ms = 1e3 * seconds;
  std::snprintf(text, sizeof text, ms < 10 ? "%.2f ms" : ms < 1e4 ? "%.0f ms" : "%.3g ms", ms);
  if (ms >= 1e4) std::snprintf(text, sizeof text, "%.1f s", seconds);
  return text;
}

std::string printed(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

// Columns as wide as their widest cell, two blanks between.
class TextTable {
 public:
  explicit TextTable(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  std::string text() const {
    std::vector<std::size_t> widths(rows_[0].size(), 0);
    for (const auto& row : rows_) {
      for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
    }
    std::string text;
    for (const auto& row : rows_) {
      std::string line = "  ";
      for (std::size_t i = 0; i < row.size(); ++i) {
        line += row[i] + std::string(widths[i] - row[i].size() + 2, ' ');
      }
      line.erase(line.find_last_not_of(' ') + 1);
      text += line + "\n";
    }
    return text;
  }

 private:
  std::vector<std::vector<std::string>> rows_;
};

std::uint32_t gpu_layers_of(const DevicePlan& device) {
  std::uint32_t layers = 0;
  for (const Window& window : device.windows) {
    for (const std::uint32_t on_gpu : window.gpu_layers) layers += on_gpu;
  }
  return layers;
}

// "22+22", or "8 x 3" where all are alike and many.
std::string windows_text(const DevicePlan& device) {
  const auto& windows = device.windows;
  const bool alike = std::all_of(windows.begin(), windows.end(), [&](const Window& window) {
    return window.n_layers == windows[0].n_layers;
  });
  if (alike && windows.size() > 4) {
    return std::to_string(windows[0].n_layers) + " x " + std::to_string(windows.size());
  }
  std::string text;
  for (const Window& window : windows) {
    text += (text.empty() ? "" : "+") + std::to_string(window.n_layers);
  }
  return text;
}

std::string windows_table(const Plan& plan) {
  TextTable table({"device", "windows", "on GPU", "resident", "KV", "slots", "budget",
                   "from disk/token", "to next"});
  for (const DevicePlan& device : plan.ring) {
    std::string on_gpu = std::to_string(gpu_layers_of(device));
    if (device.output_gpu >= 0) on_gpu += " + output";
    if (gpu_layers_of(device) == 0 && device.output_gpu < 0) on_gpu = "-";
    table.add({device.name + (device.runs_output ? " (head)" : ""), windows_text(device), on_gpu,
               format_bytes(device.resident_bytes), format_bytes(device.kv_bytes),
               device.slot_bytes > 0 ? format_bytes(device.slot_bytes) : "-",
               format_bytes(device.budget_bytes),
               device.slot_bytes > 0 ? format_bytes(static_cast<Bytes>(device.read_bytes_per_token))
                                     : "-",
               plan.ring.size() > 1 ? to_string(device.link_format) : "-"});
  }
  return table.text();
}

std::string times_table(const Plan& plan) {
  TextTable table({"device", "computes", "waits for disk", "network", "idle"});
  for (const DevicePlan& device : plan.ring) {
    const auto cell = [&](double seconds) {
      return milliseconds(seconds) + printed(" (%.0f %%)", 100 * seconds / plan.tpot_seconds);
    };
    table.add({device.name, cell(device.time.compute_seconds), cell(device.time.disk_wait_seconds),
               cell(device.time.network_seconds), cell(device.time.idle_seconds)});
  }
  return table.text();
}

// Why a GPU's memory is not filled.
std::string prompts_text(const DevicePlan& device) {
  const PromptPlan& prompts = device.prompts;
  if (prompts.gpu < 0) return "";
  return device.name + " leaves " + format_bytes(prompts.room_bytes) + " of " +
         device.gpu_names[static_cast<std::size_t>(prompts.gpu)] + " free for prompts: steps of " +
         std::to_string(prompts.from_tokens) +
         " tokens and more compute the processor's layers there too, " +
         (prompts.places == 1 ? "one" : std::to_string(prompts.places)) + " at a time. For " +
         printed("%.0f", prompts.step_tokens) + " tokens a layer takes " +
         milliseconds(prompts.gpu_layer_seconds) + " there, copied over, and " +
         milliseconds(prompts.processor_layer_seconds) + " on the processor.\n";
}

char mark_of(Activity activity) {
  switch (activity) {
    case Activity::compute: return '#';
    case Activity::disk_wait: return '~';
    case Activity::network: return '>';
    case Activity::disk_read: return '=';
  }
  return ' ';
}

// A line of `columns` characters; each shows what took most of its time.
std::string line_of(const DevicePlan& device, double period, std::size_t columns, bool disk) {
  constexpr std::size_t kActivities = 4;
  std::vector<std::array<double, kActivities>> shares(columns);
  const double column_seconds = period / static_cast<double>(columns);
  for (const Span& span : device.spans) {
    if ((span.activity == Activity::disk_read) != disk) continue;
    const auto first = static_cast<std::size_t>(span.start_seconds / column_seconds);
    for (std::size_t i = first; i < columns; ++i) {
      const double begin = static_cast<double>(i) * column_seconds;
      if (begin >= span.end_seconds) break;
      shares[i][static_cast<std::size_t>(span.activity)] +=
          std::min(span.end_seconds, begin + column_seconds) - std::max(span.start_seconds, begin);
    }
  }
  std::string line;
  for (const auto& share : shares) {
    const auto most = std::max_element(share.begin(), share.end());
    // A short turn still shows: a tenth of a column is enough.
    line +=
        *most > 0.1 * column_seconds ? mark_of(static_cast<Activity>(most - share.begin())) : '.';
  }
  return line;
}

std::string time_line(const Plan& plan, std::size_t width) {
  std::size_t label = 0;
  for (const DevicePlan& device : plan.ring) label = std::max(label, device.name.size());
  const std::size_t columns = std::max<std::size_t>(20, width - std::min(width, label + 12));
  std::string text;
  for (const DevicePlan& device : plan.ring) {
    const std::string name = device.name + std::string(label - device.name.size(), ' ');
    text += "  " + name + "       |" + line_of(device, plan.tpot_seconds, columns, false) + "|\n";
    if (device.slot_bytes == 0) continue;
    text += "  " + std::string(label, ' ') + "  disk |" +
            line_of(device, plan.tpot_seconds, columns, true) + "|\n";
  }
  text += "  # computes   ~ waits for its disk   = disk reads   > hidden state travels   . idle\n";
  return text;
}

const char* colour_of(Activity activity) {
  switch (activity) {
    case Activity::compute: return "#2b6cb0";
    case Activity::disk_wait: return "#e53e3e";
    case Activity::network: return "#805ad5";
    case Activity::disk_read: return "#dd9b26";
  }
  return "#000";
}

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '<') {
      result += "&lt;";
    } else if (c == '>') {
      result += "&gt;";
    } else if (c == '&') {
      result += "&amp;";
    } else if (c == '"') {
      result += "&quot;";
    } else {
      result += c;
    }
  }
  return result;
}

}  // namespace

std::string plan_text(const Plan& plan, const Cluster& cluster, const std::vector<WhatIf>& what_if,
                      std::size_t width) {
  const Request& request = plan.request;
  std::string text = plan.model + ": " + std::to_string(plan.n_layer) + " layers on " +
                     std::to_string(plan.ring.size()) + " of " +
                     std::to_string(cluster.devices.size()) + " devices, " +
                     std::to_string(plan.rounds) + (plan.rounds == 1 ? " round" : " rounds") +
                     ", context " + std::to_string(request.n_ctx) + "\n\n";
  text += windows_table(plan);
  text += "\nOne token takes " + milliseconds(plan.tpot_seconds) +
          " (TPOT). Where each device's time goes:\n";
  text += times_table(plan);
  text += "\n" + time_line(plan, width);
  text += "\n" + plan.bottleneck + "\n";
  text += "First token after a prompt of " + std::to_string(request.prompt_tokens) +
          " tokens (TTFT): " + milliseconds(plan.ttft_seconds) + ", in " +
          std::to_string(plan.prefill_steps) + (plan.prefill_steps == 1 ? " step" : " steps") +
          ". " + std::to_string(request.sequences) +
          " sequences at once: " + printed("%.2f tokens/s", plan.tokens_per_second) + ", in " +
          std::to_string(plan.decode_steps) + (plan.decode_steps == 1 ? " step" : " steps") + ".\n";
  for (const DevicePlan& device : plan.ring) text += prompts_text(device);
  text += std::string("Objective (") + to_string(request.objective) +
          "): " + milliseconds(plan.objective_seconds) + ". No plan is below " +
          milliseconds(plan.bound_seconds) + ": at most " +
          printed("%.1f %%", 100 * (plan.objective_seconds / plan.bound_seconds - 1)) +
          " to gain by a better plan.\n";
  for (const LeftOut& device : plan.left_out) {
    text += "Left out: " + device.name + ", because " + device.reason + ".\n";
  }
  if (!what_if.empty()) {
    text += "\nWhat if:\n";
    TextTable table({"change", "speed"});
    for (const WhatIf& answer : what_if) {
      table.add({answer.change, printed("%.2fx", answer.speedup)});
    }
    text += table.text();
  }
  return text;
}

std::string plan_svg(const Plan& plan) {
  constexpr double kLeft = 120;
  constexpr double kWidth = 860;
  constexpr double kRow = 20;
  const double height = 70 + static_cast<double>(plan.ring.size()) * 2.6 * kRow;
  char text[256];
  std::string svg;
  const auto add = [&](const char* format, auto... values) {
    std::snprintf(text, sizeof text, format, values...);
    svg += text;
  };
  add("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n",
      kLeft + kWidth + 20, height);
  svg += "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n";
  svg += "<text x=\"10\" y=\"18\">" + escaped(plan.model) + ": one token, " +
         milliseconds(plan.tpot_seconds) + "</text>\n";
  double x = kLeft;
  for (const auto& [activity, label] :
       {std::pair{Activity::compute, "computes"}, std::pair{Activity::disk_wait, "waits for disk"},
        std::pair{Activity::disk_read, "disk reads"}, std::pair{Activity::network, "network"}}) {
    add("<rect x=\"%.0f\" y=\"26\" width=\"10\" height=\"10\" fill=\"%s\"/>", x,
        colour_of(activity));
    add("<text x=\"%.0f\" y=\"35\">%s</text>\n", x + 14, label);
    x += 120;
  }
  double y = 50;
  for (const DevicePlan& device : plan.ring) {
    add("<text x=\"10\" y=\"%.1f\">", y + 14);
    svg += escaped(device.name.substr(0, 18)) + "</text>\n";
    add("<rect x=\"%.0f\" y=\"%.1f\" width=\"%.0f\" height=\"%.0f\" fill=\"#edf2f7\"/>\n", kLeft, y,
        kWidth, 2 * kRow);
    for (const Span& span : device.spans) {
      const double scale = kWidth / plan.tpot_seconds;
      const double from = kLeft + span.start_seconds * scale;
      const double wide = (span.end_seconds - span.start_seconds) * scale;
      if (wide < 0.02) continue;
      const bool disk = span.activity == Activity::disk_read;
      add("<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.0f\" fill=\"%s\"/>\n", from,
          disk ? y + kRow : y, wide, kRow, colour_of(span.activity));
    }
    y += 2.6 * kRow;
  }
  svg += "</svg>\n";
  return svg;
}

}  // namespace prima::plan

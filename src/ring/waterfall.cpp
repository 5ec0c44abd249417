#include "ring/waterfall.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "ring/route.h"

namespace prima::ring {
namespace {

constexpr std::size_t kWidth = 60;

struct Row {
  Duration waiting{};
  Duration reading{};
  Duration computing{};
  Duration sending{};
  std::string picture = std::string(kWidth, ' ');
};

// Something that takes no time worth a column is still seen.
class Painter {
 public:
  explicit Painter(Duration total) : total_(std::max(seconds(total), 1e-9)) {}

  void pass(Duration time) { at_ += seconds(time); }
  void paint(std::string& picture, char mark, Duration time) {
    if (time <= Duration{}) return;
    const std::size_t first = std::min(column(at_), kWidth - 1);
    pass(time);
    const std::size_t last = std::max(first + 1, std::min(column(at_), kWidth));
    std::fill(picture.begin() + static_cast<std::ptrdiff_t>(first),
              picture.begin() + static_cast<std::ptrdiff_t>(last), mark);
  }

 private:
  std::size_t column(double at) const {
    return static_cast<std::size_t>(std::lround(at / total_ * static_cast<double>(kWidth)));
  }

  const double total_;
  double at_ = 0;
};

template <typename... Values>
std::string text(const char* format, Values... values) {
  char buffer[256];
  std::snprintf(buffer, sizeof buffer, format, values...);
  return buffer;
}

}  // namespace

std::string waterfall(std::uint64_t step_id, std::uint32_t n_tokens, const StepTimings& timings,
                      std::span<const std::string> devices) {
  std::vector<Row> rows(devices.size());
  const Duration links = timings.travelling();
  Painter painter(timings.total);
  const Duration between =
      timings.hops.empty() ? Duration{} : links / static_cast<Duration::rep>(timings.hops.size());
  for (const HopTiming& hop : timings.hops) {
    Row& row = rows.at(hop.device);
    row.waiting += hop.waiting;
    row.reading += hop.reading;
    row.computing += hop.computing;
    row.sending += hop.sending;
    painter.paint(row.picture, '.', hop.waiting);
    painter.paint(row.picture, 'r', hop.reading);
    painter.paint(row.picture, '#', hop.computing);
    painter.paint(row.picture, '>', hop.sending);
    painter.pass(between);
  }
  painter.paint(rows.at(kHead).picture, 'o', timings.output);

  std::size_t widest = 0;
  for (const std::string& name : devices) widest = std::max(widest, name.size());
  std::string all = text("step %llu: %u %s, %.1f ms", static_cast<unsigned long long>(step_id),
                         n_tokens, n_tokens == 1 ? "token" : "tokens", milliseconds(timings.total));
  if (timings.n_parts > 1) all += text(" in %u parts", timings.n_parts);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    all += "\n  " + devices[i] + std::string(widest - devices[i].size(), ' ') +
           text("  waiting %7.1f  reading %7.1f  computing %7.1f  sending %7.1f",
                milliseconds(row.waiting), milliseconds(row.reading), milliseconds(row.computing),
                milliseconds(row.sending));
    if (timings.n_parts == 1) all += "  |" + row.picture + "|";
  }
  all += text("\n  output layer %.1f", milliseconds(timings.output));
  if (timings.n_parts == 1 && devices.size() > 1) all += text("  links %.1f", milliseconds(links));
  return all;
}

}  // namespace prima::ring

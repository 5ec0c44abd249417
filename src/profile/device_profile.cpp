#include "profile/device_profile.h"

#include <algorithm>
#include <cassert>

namespace prima::profile {

double seconds_for_tokens(const TokenTimes& times, double tokens) {
  assert(tokens >= 1);
  std::size_t upper = 1;
  while (upper + 1 < kTimedTokens.size() && tokens > kTimedTokens[upper]) ++upper;
  const double x0 = kTimedTokens[upper - 1];
  const double x1 = kTimedTokens[upper];
  const double y0 = times.seconds[upper - 1];
  const double y1 = times.seconds[upper];
  return std::max(y0, y0 + (tokens - x0) * (y1 - y0) / (x1 - x0));
}

double layer_seconds(const LayerTimes& times, double tokens, double context_tokens) {
  const double at_short = seconds_for_tokens(times.short_context_seconds, tokens);
  if (times.long_context_tokens <= times.short_context_tokens) return at_short;
  const double at_long = seconds_for_tokens(times.long_context_seconds, tokens);
  const double share = (context_tokens - times.short_context_tokens) /
                       (times.long_context_tokens - times.short_context_tokens);
  return std::max(at_short, at_short + share * (at_long - at_short));
}

DeviceProfile with_speeds_of(const DeviceProfile& now, DeviceProfile planned) {
  planned.disk_read_bytes_per_second = now.disk_read_bytes_per_second;
  planned.cpu_layers = now.cpu_layers;
  planned.cpu_output_seconds = now.cpu_output_seconds;
  planned.cpu_budgeted_layers = now.cpu_budgeted_layers;
  planned.cpu_budgeted_output_seconds = now.cpu_budgeted_output_seconds;
  return planned;
}

}  // namespace prima::profile

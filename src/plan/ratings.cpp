#include "plan/ratings.h"

#include <algorithm>

namespace prima::plan {
namespace {

// The filling of the cache at which "long context" is told; times are linear in it.
constexpr std::uint32_t kLongContextTokens = 4096;

profile::TokenTimes times_with(const LayerClass& layer, const BackendRating& rating,
                               double context_tokens) {
  profile::TokenTimes times;
  const double cells = layer.window_tokens > 0
                           ? std::min<double>(layer.window_tokens, context_tokens)
                           : context_tokens;
  const double cache_bytes = cells * static_cast<double>(layer.kv_bytes_per_token);
  for (std::size_t i = 0; i < times.seconds.size(); ++i) {
    const double tokens = profile::kTimedTokens[i];
    const double read = expected_read_bytes(layer, tokens) / rating.weights_bytes_per_second;
    const double operations = 2.0 * tokens * static_cast<double>(layer.active_parameters);
    times.seconds[i] = rating.layer_overhead_seconds +
                       std::max(read, operations / rating.operations_per_second) +
                       cache_bytes / rating.weights_bytes_per_second;
  }
  return times;
}

}  // namespace

profile::LayerTimes rated_layer_times(const LayerClass& layer, const BackendRating& rating) {
  profile::LayerTimes times;
  times.short_context_seconds = times_with(layer, rating, 0);
  times.long_context_seconds = times_with(layer, rating, kLongContextTokens);
  times.long_context_tokens = kLongContextTokens;
  return times;
}

profile::TokenTimes rated_output_times(const ModelShape& shape, const BackendRating& rating) {
  LayerClass output;
  output.dense_bytes = shape.output_bytes;
  output.active_parameters = shape.output_parameters;
  return times_with(output, rating, 0);
}

}  // namespace prima::plan

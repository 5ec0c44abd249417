#include "generate/answer.h"

namespace prima::generate {

const char* to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::end: return "end";
    case FinishReason::stop_string: return "stop_string";
    case FinishReason::max_tokens: return "max_tokens";
    case FinishReason::context_full: return "context_full";
    case FinishReason::cancelled: return "cancelled";
  }
  return "unknown";
}

Duration Statistics::time_per_output_token() const {
  return n_generated > 1 ? decoding / (n_generated - 1) : Duration{};
}

double Statistics::prefill_tokens_per_second() const {
  return time_to_first_token > Duration{} ? (n_prompt - n_reused) / seconds(time_to_first_token)
                                          : 0.0;
}

double Statistics::decode_tokens_per_second() const {
  return n_generated > 1 && decoding > Duration{} ? (n_generated - 1) / seconds(decoding) : 0.0;
}

}  // namespace prima::generate

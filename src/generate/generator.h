// One answer, waited for: what `prima run` does with a Batcher that nobody else uses.
//
// Thread-compatible.
#pragma once

#include <functional>

#include "base/result.h"
#include "generate/answer.h"
#include "generate/batcher.h"
#include "text/sampler.h"

namespace prima::generate {

// `cancelled`, if given, is asked at least every 50 ms while waiting for the ring; true ends the
// answer. Fails with invalid_argument (empty prompt, one longer than the context, a grammar that
// allows no token), or with what the ring reports: in that case alone all that the ring's KV cache
// held is forgotten.
Result<Answer> generate(Batcher& batcher, text::Sampler sampler, Request request,
                        const Clock& clock, const std::function<bool()>& cancelled = {});

}  // namespace prima::generate

// One answer of `prima run`, shown as it comes.
#pragma once

#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "cli/interrupt.h"
#include "cli/run_options.h"
#include "generate/batcher.h"
#include "generate/generator.h"
#include "text/sampler.h"
#include "text/tokenizer.h"

namespace prima::cli {

// Everything that answers need, once the model is loaded. Refers to what the caller owns.
struct AnswerContext {
  const RunOptions& options;
  const text::Tokenizer& tokenizer;
  const text::SamplerOptions& sampler;
  generate::Batcher& batcher;
  InterruptGuard& interrupt;
  const Clock& clock;
};

// Writes to standard output, to the end of a line; Ctrl-C ends the answer. Fails as
// generate::generate does, or with io if standard output cannot be written.
Result<generate::Answer> write_answer(const AnswerContext& context,
                                      std::vector<text::Token> prompt);

}  // namespace prima::cli

// --draft: speculative decoding, by a smaller model or by looking up.
#pragma once

#include <memory>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "compute/executor.h"
#include "generate/drafter.h"
#include "text/tokenizer.h"

namespace CLI {
class App;
}

namespace prima::cli {

struct DraftOptions {
  std::string draft;  // "ngram", a GGUF file, or empty: no drafts
};

void add_draft_options(CLI::App& command, DraftOptions& options);

// Null where none is wanted. `executor`: of the target, for the threads and the context. The clock
// must outlive it. Fails with invalid_argument where the two models' vocabularies differ, and as
// loading a model does.
Result<std::unique_ptr<generate::Drafter>> make_drafter(const DraftOptions& options,
                                                        const text::Tokenizer& target,
                                                        const compute::ExecutorOptions& executor,
                                                        const Clock& clock);

}  // namespace prima::cli

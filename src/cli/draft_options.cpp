#include "cli/draft_options.h"

#include <CLI/CLI.hpp>

#include "generate/model_drafter.h"
#include "generate/ngram_drafter.h"

namespace prima::cli {

void add_draft_options(CLI::App& command, DraftOptions& options) {
  auto* draft = command.add_option("--draft", options.draft,
                                   "Guess tokens and verify several at once, where that pays: a "
                                   "smaller model of the same vocabulary, or \"ngram\" to look "
                                   "them up in the conversation");
  draft->type_name("FILE|ngram")->group("Speculation");
}

Result<std::unique_ptr<generate::Drafter>> make_drafter(const DraftOptions& options,
                                                        const text::Tokenizer& target,
                                                        const compute::ExecutorOptions& executor,
                                                        const Clock& clock) {
  if (options.draft.empty()) return nullptr;
  if (options.draft == "ngram") return std::make_unique<generate::NgramDrafter>();
  return generate::ModelDrafter::load(options.draft, target, executor, clock);
}

}  // namespace prima::cli

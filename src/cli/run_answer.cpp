#include "cli/run_answer.h"

#include <cstdio>
#include <string_view>
#include <utility>

namespace prima::cli {

Result<generate::Answer> write_answer(const AnswerContext& context,
                                      std::vector<text::Token> prompt) {
  PRIMA_ASSIGN_OR_RETURN(text::Sampler sampler,
                         text::Sampler::create(context.tokenizer, context.sampler));
  const RunOptions& options = context.options;
  generate::Request request;
  request.prompt = std::move(prompt);
  request.max_tokens = static_cast<std::uint32_t>(options.max_tokens.value_or(0));
  request.stops = options.stops;
  request.ignore_end = options.ignore_end;
  request.on_text = [](std::string_view text, auto) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  };
  // An answer that nobody can read any more is not worth its time.
  const auto cancelled = [&] {
    return context.interrupt.interrupted() || std::ferror(stdout) != 0;
  };

  auto answer = generate::generate(context.batcher, std::move(sampler), std::move(request),
                                   context.clock, cancelled);
  if (answer && !answer->text.ends_with('\n')) std::fputc('\n', stdout);
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    return fail(ErrorCode::io, "standard output cannot be written",
                "Check the disk or program it goes to");
  }
  return answer;
}

}  // namespace prima::cli

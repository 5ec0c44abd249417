// `prima run` without a prompt: a conversation on the terminal.
#pragma once

#include "cli/run_answer.h"
#include "text/chat_template.h"

namespace prima::ring {
class Ring;
}

namespace prima::cli {

// Until Ctrl-D, or Ctrl-C while no answer is being written. Fails where the ring does.
Status chat(const AnswerContext& context, const text::ChatTemplate& chat_template,
            const ring::Ring& ring, std::uint32_t n_ctx_train);

}  // namespace prima::cli

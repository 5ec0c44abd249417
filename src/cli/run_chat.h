// `prima run` without a prompt: a conversation on the terminal.
#pragma once

#include <string>
#include <vector>

#include "cli/run_answer.h"
#include "text/chat_template.h"

namespace prima::ring {
class Ring;
}

namespace prima::cli {

// What outlives a ring.
struct Conversation {
  std::vector<text::ChatMessage> messages;
  bool awaits_answer = false;  // to the last message
  std::string read_ahead;      // of the terminal, beyond the lines taken
};

enum class ChatEnd {
  left,          // Ctrl-D, or Ctrl-C while no answer was being written
  for_new_ring,  // a device was lost, or has joined and makes a clearly better plan
};

Result<ChatEnd> chat(const AnswerContext& context, const text::ChatTemplate& chat_template,
                     ring::Ring& ring, std::uint32_t n_ctx_train, Conversation& conversation);

}  // namespace prima::cli

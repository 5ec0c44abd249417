// Who answers in `prima chat`: a running server, or a model in this process.
//
// Thread-compatible.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "cli/interrupt.h"
#include "cli/run_options.h"
#include "text/chat_template.h"

namespace prima::cli {

struct ChatReply {
  std::string text;
  std::uint32_t n_prompt = 0;
  std::uint32_t n_reused = 0;
  std::uint32_t n_generated = 0;
  std::uint32_t n_drafted = 0;
  std::uint32_t n_accepted = 0;
  Duration time_to_first_token{};
  Duration time_per_output_token{};
};

class ChatPartner {
 public:
  virtual ~ChatPartner() = default;

  virtual const std::string& name() const = 0;

  // Writes the answer to standard output as it comes; Ctrl-C ends it. Fails with invalid_argument
  // where the conversation cannot be answered (too long), else where there is no going on.
  virtual Result<ChatReply> reply(std::span<const text::ChatMessage> messages) = 0;
};

// All must outlive the partner.
Result<std::unique_ptr<ChatPartner>> connect_to_server(const std::string& url,
                                                       const std::string& api_key,
                                                       const RunOptions& options,
                                                       InterruptGuard& interrupt,
                                                       const Clock& clock);
Result<std::unique_ptr<ChatPartner>> load_model(const RunOptions& options,
                                                InterruptGuard& interrupt, const Clock& clock);

}  // namespace prima::cli

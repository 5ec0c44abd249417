// The model that a server answers with.
//
// Immutable, so safe to use from any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "model/hyperparameters.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace prima::server {

struct ServedModel {
  std::string name;
  text::Tokenizer tokenizer;
  std::optional<text::ChatTemplate> chat_template;  // nullopt: the model cannot chat
  std::uint32_t max_context = 0;                    // tokens of one conversation
  std::uint32_t n_embd = 0;                         // numbers of an embedding
  model::Pooling pooling = model::Pooling::mean;
  std::int64_t created = 0;  // when it was loaded, in Unix time
};

}  // namespace prima::server

// What of a request only the served model can judge: its name, its tokens, their number.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "server/api_error.h"
#include "server/api_request.h"
#include "server/served_model.h"

namespace prima::server {

// Fails with 404 unless the model asked for is the one served; none asked for is right too.
ApiResult<void> check_model(const ServedModel& model, const std::string& asked);

// Fails with 400 where a prompt is empty or longer than the context, naming `param`.
ApiResult<void> check_length(const ServedModel& model, std::size_t n_tokens, const char* param);

// A prompt's tokens, checked. Fails with 400, naming `param`.
ApiResult<std::vector<text::Token>> tokens_of_prompt(const ServedModel& model, const Prompt& prompt,
                                                     const char* param);

}  // namespace prima::server

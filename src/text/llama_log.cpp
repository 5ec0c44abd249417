#include "text/llama_log.h"

#include <mutex>
#include <string>

#include <ggml.h>
#include <llama.h>
#include <log.h>  // llama.cpp's common/log.h

#include "base/log.h"

namespace prima::text {

namespace {

thread_local CapturedLlamaErrors* t_captured = nullptr;

// The message without the line ends around it; inner ones become spaces.
std::string one_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  for (char& c : text) {
    if (c == '\n') c = ' ';
  }
  return text;
}

}  // namespace

void keep_llama_error(const std::string& message) {
  if (t_captured != nullptr && t_captured->first_.empty()) t_captured->first_ = message;
}

void route_llama_log() {
  static std::once_flag once;
  std::call_once(once, [] {
    llama_log_set(
        [](ggml_log_level level, const char* text, void*) {
          // Continued lines are progress dots and tables: nothing to keep.
          if (level == GGML_LOG_LEVEL_CONT) return;
          const std::string message = one_line(text);
          if (message.empty()) return;
          if (level == GGML_LOG_LEVEL_ERROR) keep_llama_error(message);
          log::debug("llama.cpp: {}", message);
        },
        nullptr);
    // The `common` library has a log of its own, which would print from a thread of its own; its
    // errors come as exceptions too. Below LOG_LEVEL_OUTPUT it says nothing.
    common_log_set_verbosity_thold(LOG_LEVEL_OUTPUT - 1);
  });
}

CapturedLlamaErrors::CapturedLlamaErrors() { t_captured = this; }
CapturedLlamaErrors::~CapturedLlamaErrors() { t_captured = nullptr; }

}  // namespace prima::text

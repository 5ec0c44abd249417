// Bodies of requests from anybody: whatever they are, a request or an ApiError comes out.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "server/api_request.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace prima::server;
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  const auto told = [](const auto& parsed) {
    if (!parsed && (parsed.error().status != 400 || parsed.error().body().empty()))
      __builtin_trap();
  };
  told(parse_chat_completion(body));
  told(parse_completion(body));
  told(parse_embedding(body));
  told(parse_tokenize(body));
  told(parse_detokenize(body));
  return 0;
}

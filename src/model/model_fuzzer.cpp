// libFuzzer on everything that opening a model reads from a file.
#include <cstddef>
#include <cstdint>

#include "model/testing/tiny_gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  static_cast<void>(prima::model::check_model_bytes(bytes));
  return 0;
}

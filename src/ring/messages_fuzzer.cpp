// libFuzzer: whatever bytes arrive, decoding neither crashes nor believes them; what it accepts
// comes out of encode() and decode again.
#include <cstdint>
#include <cstdlib>

#include "ring/messages.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace prima::ring;
  // Exactly as long as what was received, so that a read past the end is seen.
  const std::vector<std::byte> bytes(reinterpret_cast<const std::byte*>(data),
                                     reinterpret_cast<const std::byte*>(data) + size);
  if (const auto control = decode_control(bytes)) {
    if (!decode_control(encode(*control))) std::abort();
  }
  // The session is part of the input's shape, or nothing would ever pass that check.
  SessionShape shape{.session = 0,
                     .n_devices = 3,
                     .n_hops = 4,
                     .n_embd = 32,
                     .n_ctx = 64,
                     .max_tokens = 16,
                     .link_type = GGML_TYPE_F32};
  for (std::uint32_t columns = 0; columns <= shape.max_tokens; ++columns) {
    const auto header = decode_data(bytes, shape.payload_bytes(columns), shape);
    if (!header || !*header) continue;
    const auto again = decode_data(encode(**header, shape), shape.payload_bytes(columns), shape);
    if (!again || !*again || (*again)->step != (*header)->step) std::abort();
  }
  return 0;
}

#include "ring/hidden_payload.h"

#include <span>

namespace prima::ring {

transport::Payload pack_hidden(std::vector<float> hidden, ggml_type type, std::uint32_t n_embd) {
  if (type == GGML_TYPE_F32) return transport::Payload::of(std::move(hidden));
  const auto n_columns = static_cast<std::int64_t>(hidden.size() / n_embd);
  std::vector<std::byte> packed(static_cast<std::size_t>(n_columns) * ggml_row_size(type, n_embd));
  ggml_quantize_chunk(type, hidden.data(), packed.data(), 0, n_columns, n_embd, nullptr);
  return transport::Payload::of(std::move(packed));
}

std::vector<float> unpack_hidden(const transport::Payload& payload, ggml_type type,
                                 std::uint32_t n_embd, std::uint32_t n_columns) {
  std::vector<float> hidden(std::size_t{n_embd} * n_columns);
  if (type == GGML_TYPE_F32) {
    payload.copy_to(std::as_writable_bytes(std::span(hidden)));
    return hidden;
  }
  std::vector<std::byte> packed(payload.size());
  payload.copy_to(packed);
  if (!hidden.empty()) {
    ggml_get_type_traits(type)->to_float(packed.data(), hidden.data(),
                                         static_cast<std::int64_t>(hidden.size()));
  }
  return hidden;
}

}  // namespace prima::ring

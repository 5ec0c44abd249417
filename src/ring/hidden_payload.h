// Hidden states as they travel: raw tensors of the link's type.
//
// Thread-safe.
#pragma once

#include <vector>

#include <ggml.h>

#include "transport/message.h"

namespace prima::ring {

// hidden: (n_embd, n_columns). Without a copy for f32: the payload takes the vector over.
transport::Payload pack_hidden(std::vector<float> hidden, ggml_type type, std::uint32_t n_embd);

// REQUIRES: the payload has the size of (n_embd, n_columns) in `type`. One copy for f32.
std::vector<float> unpack_hidden(const transport::Payload& payload, ggml_type type,
                                 std::uint32_t n_embd, std::uint32_t n_columns);

}  // namespace prima::ring

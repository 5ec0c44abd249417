// Repacks a weight into a layout of ggml's for this processor, some rows at a time, so that memory
// for a few rows is enough however large the weight is.
//
// ggml interleaves rows in groups of at most kRowGroup; each group lies where its rows lay, so any
// run of whole groups can be repacked alone.
//
// Thread-compatible.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include <ggml-cpp.h>
#include <ggml.h>

#include "base/result.h"
#include "base/units.h"

namespace prima::weights {

class RowRepacker {
 public:
  static constexpr std::int64_t kRowGroup = 16;

  // nullopt where this layout does not come in groups of rows (or ggml would take another one for
  // fewer rows), so that it cannot be stored.
  static std::optional<RowRepacker> create(ggml_type type, const std::array<std::int64_t, 4>& shape,
                                           ggml_backend_buffer_type_t layout);

  std::int64_t rows() const { return rows_; }  // of the whole weight
  Bytes row_bytes() const { return row_bytes_; }
  std::int64_t rows_at_once() const { return rows_at_once_; }

  // `plain`: at most rows_at_once() rows, beginning at a whole group. The result is as long, and
  // stays until the next call.
  std::span<const std::byte> repack(std::span<const std::byte> plain);

 private:
  RowRepacker() = default;

  ggml_type type_ = GGML_TYPE_F32;
  std::int64_t columns_ = 0;
  std::int64_t rows_ = 0;
  std::int64_t rows_at_once_ = 0;
  Bytes row_bytes_ = 0;
  ggml_backend_buffer_ptr buffer_;
};

}  // namespace prima::weights

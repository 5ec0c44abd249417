#include "weights/row_repacker.h"

#include <algorithm>
#include <string_view>

#include <ggml-backend.h>

namespace prima::weights {
namespace {

constexpr Bytes kBytesAtOnce = 4 * kMiB;  // large enough for whole disk blocks, small against slots

ggml_context_ptr one_tensor_context() {
  return ggml_context_ptr(
      ggml_init({.mem_size = 2 * ggml_tensor_overhead(), .mem_buffer = nullptr, .no_alloc = true}));
}

// What ggml would compute a weight of this shape with; null for plain kernels.
const void* kernels_for(ggml_backend_buffer_t buffer, ggml_type type,
                        const std::array<std::int64_t, 4>& shape) {
  const ggml_context_ptr context = one_tensor_context();
  ggml_tensor* tensor = ggml_new_tensor(context.get(), type, 4, shape.data());
  tensor->buffer = buffer;
  tensor->data = ggml_backend_buffer_get_base(buffer);
  ggml_backend_buffer_init_tensor(buffer, tensor);
  return tensor->extra;
}

}  // namespace

std::optional<RowRepacker> RowRepacker::create(ggml_type type,
                                               const std::array<std::int64_t, 4>& shape,
                                               ggml_backend_buffer_type_t layout) {
  if (std::string_view(ggml_backend_buft_name(layout)) != "CPU_REPACK") return std::nullopt;
  RowRepacker repacker;
  repacker.type_ = type;
  repacker.columns_ = shape[0];
  repacker.rows_ = shape[1] * shape[2] * shape[3];
  repacker.row_bytes_ = ggml_row_size(type, shape[0]);
  const auto rows = static_cast<std::int64_t>(kBytesAtOnce / repacker.row_bytes_);
  repacker.rows_at_once_ = std::max(kRowGroup, rows / kRowGroup * kRowGroup);
  repacker.buffer_.reset(ggml_backend_buft_alloc_buffer(
      layout, static_cast<Bytes>(repacker.rows_at_once_) * repacker.row_bytes_));
  if (!repacker.buffer_) return std::nullopt;

  const void* kernels = kernels_for(repacker.buffer_.get(), type, shape);
  const std::int64_t rest = repacker.rows_ % kRowGroup;
  const auto same = [&](std::int64_t n) {
    return kernels_for(repacker.buffer_.get(), type, {shape[0], n, 1, 1}) == kernels;
  };
  if (kernels == nullptr || !same(kRowGroup) || (rest != 0 && !same(rest))) return std::nullopt;
  return repacker;
}

std::span<const std::byte> RowRepacker::repack(std::span<const std::byte> plain) {
  const ggml_context_ptr context = one_tensor_context();
  ggml_tensor* tensor = ggml_new_tensor_2d(context.get(), type_, columns_,
                                           static_cast<std::int64_t>(plain.size() / row_bytes_));
  ggml_backend_tensor_alloc(buffer_.get(), tensor, ggml_backend_buffer_get_base(buffer_.get()));
  ggml_backend_tensor_set(tensor, plain.data(), 0, plain.size());
  return {static_cast<const std::byte*>(tensor->data), plain.size()};
}

}  // namespace prima::weights

#include "compute/kv_cache.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>

namespace prima::compute {
namespace {

// Of ggml's CPU buffers, and of cache lines.
constexpr Bytes kAlignment = 64;

Status no_memory(Bytes size) {
  return fail(ErrorCode::resource_exhausted, "no memory for a KV cache of " + format_bytes(size),
              "Give a smaller context (-c)");
}

}  // namespace

Result<std::unique_ptr<KvCache>> KvCache::create(const model::Hyperparameters& hyperparameters,
                                                 std::span<const LayerRange> windows,
                                                 ggml_type type, std::uint32_t n_cells,
                                                 ggml_backend_dev_t device, std::size_t n_places) {
  if (hyperparameters.head_dim % static_cast<std::uint32_t>(ggml_blck_size(type)) != 0) {
    return fail(ErrorCode::invalid_argument,
                std::string("a KV cache of type ") + ggml_type_name(type) + " needs heads of " +
                    std::to_string(ggml_blck_size(type)) +
                    " elements or a multiple, this model's have " +
                    std::to_string(hyperparameters.head_dim),
                "Use an f16 KV cache");
  }
  std::size_t n_layers = 0;
  for (const LayerRange& window : windows) n_layers += window.size();
  n_places = std::min(n_places, n_layers);

  std::unique_ptr<KvCache> cache(new KvCache);
  cache->layers_.resize(hyperparameters.n_layer);
  cache->context_.reset(ggml_init({.mem_size = (2 * n_places + 1) * ggml_tensor_overhead(),
                                   .mem_buffer = nullptr,
                                   .no_alloc = true}));
  ggml_context* context = cache->context_.get();
  const std::int64_t n_embd_kv = hyperparameters.n_embd_kv();
  std::vector<Layer> places(n_places);
  for (Layer& place : places) {
    place = {ggml_new_tensor_2d(context, type, n_embd_kv, n_cells),
             ggml_new_tensor_2d(context, type, n_embd_kv, n_cells)};
  }
  std::size_t index = 0;
  for (const LayerRange& window : windows) {
    for (std::uint32_t layer = window.first; layer < window.last; ++layer) {
      cache->layers_[layer] = places[index++ % n_places];
    }
  }
  if (n_places == 0) return cache;

  const Bytes tensor_bytes =
      align_up(ggml_row_size(type, n_embd_kv) * std::size_t{n_cells}, kAlignment);
  if (!checked_multiply(2 * n_places, tensor_bytes)) {
    return tl::unexpected(no_memory(std::numeric_limits<Bytes>::max()).error());
  }
  if (ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU) {
    PRIMA_RETURN_IF_ERROR(cache->allocate_on_cpu(2 * n_places * tensor_bytes));
  } else {
    cache->buffer_.reset(
        ggml_backend_alloc_ctx_tensors_from_buft(context, ggml_backend_dev_buffer_type(device)));
    if (!cache->buffer_) return tl::unexpected(no_memory(2 * n_places * tensor_bytes).error());
    ggml_backend_buffer_clear(cache->buffer_.get(), 0);
    cache->size_bytes_ = ggml_backend_buffer_get_size(cache->buffer_.get());
  }
  return cache;
}

Status KvCache::allocate_on_cpu(Bytes size) {
  // calloc: pages that were never written stay with the system, and read as zero.
  memory_.reset(std::calloc(1, size + kAlignment));
  if (!memory_) return no_memory(size);
  void* aligned = memory_.get();
  std::size_t space = size + kAlignment;
  auto* next = static_cast<std::byte*>(std::align(kAlignment, size, aligned, space));
  buffer_.reset(ggml_backend_cpu_buffer_from_ptr(next, size));
  size_bytes_ = size;
  for (ggml_tensor* tensor = ggml_get_first_tensor(context_.get()); tensor != nullptr;
       tensor = ggml_get_next_tensor(context_.get(), tensor)) {
    ggml_backend_tensor_alloc(buffer_.get(), tensor, next);
    next += align_up(ggml_nbytes(tensor), kAlignment);
  }
  return {};
}

}  // namespace prima::compute

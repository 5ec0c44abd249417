#include "compute/kv_cache.h"

#include <cstdlib>
#include <string>

namespace prima::compute {
namespace {

// Of ggml's CPU buffers, and of cache lines.
constexpr Bytes kAlignment = 64;

}  // namespace

Result<std::unique_ptr<KvCache>> KvCache::create(const model::Hyperparameters& hyperparameters,
                                                 std::span<const LayerRange> windows,
                                                 ggml_type type, std::uint32_t n_cells) {
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

  std::unique_ptr<KvCache> cache(new KvCache);
  cache->layers_.resize(hyperparameters.n_layer);
  cache->context_.reset(ggml_init({.mem_size = (2 * n_layers + 1) * ggml_tensor_overhead(),
                                   .mem_buffer = nullptr,
                                   .no_alloc = true}));
  const std::int64_t n_embd_kv = hyperparameters.n_embd_kv();
  const Bytes tensor_bytes =
      align_up(ggml_row_size(type, n_embd_kv) * std::size_t{n_cells}, kAlignment);
  cache->size_bytes_ = 2 * n_layers * tensor_bytes;
  if (n_layers == 0) return cache;

  // calloc: pages that were never written stay with the system, and read as zero.
  cache->memory_.reset(std::calloc(1, cache->size_bytes_ + kAlignment));
  if (!cache->memory_) {
    return fail(ErrorCode::resource_exhausted,
                "no memory for a KV cache of " + format_bytes(cache->size_bytes_),
                "Give a smaller context (-c)");
  }
  auto* base = reinterpret_cast<std::byte*>(
      align_up(reinterpret_cast<std::uintptr_t>(cache->memory_.get()), kAlignment));
  cache->buffer_.reset(ggml_backend_cpu_buffer_from_ptr(base, cache->size_bytes_));

  std::byte* next = base;
  const auto make_tensor = [&] {
    ggml_tensor* tensor = ggml_new_tensor_2d(cache->context_.get(), type, n_embd_kv, n_cells);
    ggml_backend_tensor_alloc(cache->buffer_.get(), tensor, next);
    next += tensor_bytes;
    return tensor;
  };
  for (const LayerRange& window : windows) {
    for (std::uint32_t layer = window.first; layer < window.last; ++layer) {
      Layer& entry = cache->layers_[layer];
      entry.keys = make_tensor();
      entry.values = make_tensor();
    }
  }
  return cache;
}

}  // namespace prima::compute

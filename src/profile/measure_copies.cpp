#include "profile/measure_copies.h"

#include <algorithm>
#include <vector>

#include <ggml-backend.h>
#include <ggml-cpp.h>

namespace prima::profile {
namespace {

constexpr int kRepetitions = 8;

template <typename Copy>
double least_seconds(const Clock& clock, Copy&& copy) {
  double least = 0;
  for (int i = 0; i < kRepetitions; ++i) {
    const Instant start = clock.now();
    copy();
    const double taken = seconds(clock.now() - start);
    least = i == 0 ? taken : std::min(least, taken);
  }
  return least;
}

double rate(Bytes bytes, double taken, double latency) {
  return static_cast<double>(bytes) / std::max(taken - latency, 1e-9);
}

}  // namespace

Status measure_copies(GpuProfile& gpu, Bytes most_bytes, const Clock& clock) {
  ggml_backend_dev_t device = ggml_backend_dev_by_name(gpu.name.c_str());
  if (device == nullptr) return fail(ErrorCode::not_found, "there is no GPU '" + gpu.name + "'");
  const ggml_context_ptr context(
      ggml_init({.mem_size = ggml_tensor_overhead(), .mem_buffer = nullptr, .no_alloc = true}));
  ggml_tensor* tensor =
      ggml_new_tensor_1d(context.get(), GGML_TYPE_I8, static_cast<std::int64_t>(most_bytes));
  const ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors_from_buft(
      context.get(), ggml_backend_dev_buffer_type(device)));
  if (!buffer) {
    return fail(ErrorCode::resource_exhausted, gpu.name + " has no memory for hidden states");
  }
  std::vector<std::byte> bytes(most_bytes);
  const auto to = [&](Bytes n) { ggml_backend_tensor_set(tensor, bytes.data(), 0, n); };
  const auto from = [&](Bytes n) { ggml_backend_tensor_get(tensor, bytes.data(), 0, n); };
  to(most_bytes);  // the first touches the memory
  gpu.copy_latency_seconds =
      std::min(least_seconds(clock, [&] { to(1); }), least_seconds(clock, [&] { from(1); }));
  gpu.copy_to_bytes_per_second =
      rate(most_bytes, least_seconds(clock, [&] { to(most_bytes); }), gpu.copy_latency_seconds);
  gpu.copy_from_bytes_per_second =
      rate(most_bytes, least_seconds(clock, [&] { from(most_bytes); }), gpu.copy_latency_seconds);
  return {};
}

}  // namespace prima::profile

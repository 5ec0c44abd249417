#include "weights/buffer_type.h"

#include <ggml-cpp.h>
#include <ggml-cpu.h>

namespace prima::weights {
namespace {

using model::TensorRole;

// The extra buffer types of the CPU device, null-terminated, or nullptr.
ggml_backend_buffer_type_t* extra_buffer_types() {
  ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  auto* get =
      reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(ggml_backend_reg_get_proc_address(
          ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts"));
  return get != nullptr ? get(device) : nullptr;
}

bool is_matrix(TensorRole role) {
  switch (role) {
    case TensorRole::output:
    case TensorRole::attention_qkv:
    case TensorRole::attention_q:
    case TensorRole::attention_k:
    case TensorRole::attention_v:
    case TensorRole::attention_output:
    case TensorRole::router:
    case TensorRole::ffn_gate:
    case TensorRole::ffn_up:
    case TensorRole::ffn_down: return true;
    default: return false;
  }
}

bool is_expert_matrix(TensorRole role) {
  return role == TensorRole::experts_gate || role == TensorRole::experts_up ||
         role == TensorRole::experts_down;
}

// Asks ggml, by a multiplication that is never computed, whether `type` has a kernel for it.
bool has_kernel(ggml_backend_buffer_type_t type, const model::TensorInfo& tensor, bool experts) {
  constexpr std::int64_t kTokens = 512;
  constexpr std::int64_t kExpertsUsed = 2;
  const ggml_context_ptr context(
      ggml_init({.mem_size = 8 * ggml_tensor_overhead(), .mem_buffer = nullptr, .no_alloc = true}));
  ggml_tensor* weight =
      ggml_new_tensor(context.get(), tensor.type, experts ? 3 : 2, tensor.shape.data());
  ggml_tensor* operation = nullptr;
  if (experts) {
    ggml_tensor* x =
        ggml_new_tensor_3d(context.get(), GGML_TYPE_F32, tensor.shape[0], kExpertsUsed, kTokens);
    ggml_tensor* chosen = ggml_new_tensor_2d(context.get(), GGML_TYPE_I32, kExpertsUsed, kTokens);
    operation = ggml_mul_mat_id(context.get(), weight, x, chosen);
  } else {
    ggml_tensor* x = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, tensor.shape[0], kTokens);
    operation = ggml_mul_mat(context.get(), weight, x);
  }
  const ggml_backend_buffer_ptr buffer(ggml_backend_buft_alloc_buffer(type, 0));
  weight->buffer = buffer.get();
  return ggml_backend_dev_supports_op(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU),
                                      operation);
}

}  // namespace

ggml_backend_buffer_type_t fastest_buffer_type(const model::TensorInfo& tensor, TensorRole role) {
  const bool experts = is_expert_matrix(role);
  if (experts || is_matrix(role)) {
    for (auto* type = extra_buffer_types(); type != nullptr && *type != nullptr; ++type) {
      if (has_kernel(*type, tensor, experts)) return *type;
    }
  }
  return ggml_backend_cpu_buffer_type();
}

}  // namespace prima::weights

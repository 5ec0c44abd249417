// A matrix product with weights as they lie in the file and in the processor's own layout: what a
// layer store may change, and how little that is before a whole model's layers amplify it.
#include <cmath>
#include <random>
#include <vector>

#include <ggml-cpp.h>
#include <ggml-cpu.h>
#include <gtest/gtest.h>

#include "weights/buffer_type.h"

namespace prima::weights {
namespace {

constexpr std::int64_t kColumns = 2048;
constexpr std::int64_t kRows = 512;

std::vector<float> random_values(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// (kRows, n_tokens), with the weight in a buffer of `layout`.
std::vector<float> product(ggml_type type, const std::vector<char>& weight,
                           const std::vector<float>& x, std::int64_t n_tokens,
                           ggml_backend_buffer_type_t layout) {
  const auto context = [] {
    return ggml_context_ptr(
        ggml_init({.mem_size = 8 * ggml_tensor_overhead() + ggml_graph_overhead(),
                   .mem_buffer = nullptr,
                   .no_alloc = true}));
  };
  const ggml_context_ptr weight_context = context();
  const ggml_context_ptr rest = context();
  ggml_tensor* w = ggml_new_tensor_2d(weight_context.get(), type, kColumns, kRows);
  const ggml_backend_buffer_ptr weight_buffer(
      ggml_backend_alloc_ctx_tensors_from_buft(weight_context.get(), layout));
  ggml_backend_tensor_set(w, weight.data(), 0, weight.size());
  ggml_tensor* in = ggml_new_tensor_2d(rest.get(), GGML_TYPE_F32, kColumns, n_tokens);
  ggml_tensor* out = ggml_mul_mat(rest.get(), w, in);
  const ggml_backend_buffer_ptr buffer(
      ggml_backend_alloc_ctx_tensors_from_buft(rest.get(), ggml_backend_cpu_buffer_type()));
  ggml_backend_tensor_set(in, x.data(), 0, x.size() * sizeof(float));
  ggml_cgraph* graph = ggml_new_graph(rest.get());
  ggml_build_forward_expand(graph, out);
  const ggml_backend_ptr backend(ggml_backend_cpu_init());
  EXPECT_EQ(ggml_backend_graph_compute(backend.get(), graph), GGML_STATUS_SUCCESS);
  std::vector<float> result(static_cast<std::size_t>(kRows * n_tokens));
  ggml_backend_tensor_get(out, result.data(), 0, result.size() * sizeof(float));
  return result;
}

// In double precision, of the weights' true values.
std::vector<float> exact_product(ggml_type type, const std::vector<char>& weight,
                                 const std::vector<float>& x, std::int64_t n_tokens) {
  std::vector<float> w(static_cast<std::size_t>(kRows * kColumns));
  ggml_get_type_traits(type)->to_float(weight.data(), w.data(), kRows * kColumns);
  std::vector<float> result;
  for (std::int64_t token = 0; token < n_tokens; ++token) {
    for (std::int64_t row = 0; row < kRows; ++row) {
      double sum = 0;
      for (std::int64_t i = 0; i < kColumns; ++i) {
        sum += static_cast<double>(w[static_cast<std::size_t>(row * kColumns + i)]) *
               x[static_cast<std::size_t>(token * kColumns + i)];
      }
      result.push_back(static_cast<float>(sum));
    }
  }
  return result;
}

double relative_rms(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0;
  double size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / size);
}

class Layout : public testing::TestWithParam<ggml_type> {};

TEST_P(Layout, AProductIsTheSameInEither) {
  const ggml_type type = GetParam();
  model::TensorInfo info;
  info.type = type;
  info.shape = {kColumns, kRows, 1, 1};
  const auto layout = fastest_buffer_type(info, model::TensorRole::ffn_up);
  if (layout == ggml_backend_cpu_buffer_type()) GTEST_SKIP() << "has no layout of its own here";

  std::vector<char> weight(ggml_row_size(type, kColumns) * kRows);
  const auto values = random_values(static_cast<std::size_t>(kRows * kColumns), 1);
  ggml_quantize_chunk(type, values.data(), weight.data(), 0, kRows, kColumns, nullptr);
  for (const std::int64_t n_tokens : {1, 3, 4, 32}) {
    const auto x = random_values(static_cast<std::size_t>(kColumns * n_tokens), 2);
    const auto plain = product(type, weight, x, n_tokens, ggml_backend_cpu_buffer_type());
    const auto repacked = product(type, weight, x, n_tokens, layout);
    const auto exact = exact_product(type, weight, x, n_tokens);
    // Both round the activations to 8 bits, which is most of what either is off.
    const double off = relative_rms(plain, exact);
    EXPECT_LT(relative_rms(repacked, plain), 1e-3) << n_tokens << " tokens";
    EXPECT_LT(off, 2e-2) << n_tokens << " tokens";
    EXPECT_NEAR(relative_rms(repacked, exact), off, off / 10) << n_tokens << " tokens";
  }
}

INSTANTIATE_TEST_SUITE_P(Types, Layout,
                         testing::Values(GGML_TYPE_Q4_0, GGML_TYPE_Q8_0, GGML_TYPE_Q2_K,
                                         GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K,
                                         GGML_TYPE_IQ4_NL),
                         [](const auto& type) { return ggml_type_name(type.param); });

}  // namespace
}  // namespace prima::weights

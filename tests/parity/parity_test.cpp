// The forward pass against llama.cpp's own library on the same files: every architecture, every
// quantization.
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <sstream>
#include <string>

#include "parity/llama_reference.h"
#include <gtest/gtest.h>

#include "compute/executor.h"
#include "compute/forward_session.h"
#include "model/model_file.h"

namespace prima::parity {

using compute::Executor;
using compute::ForwardSession;
namespace {

constexpr std::uint32_t kContext = 512;
constexpr std::size_t kPromptTokens = 64;
constexpr std::size_t kDecodedTokens = 32;
constexpr int kThreads = 1;  // the machine may be busy with other tests

double relative_rms(const std::vector<float>& actual, const std::vector<float>& expected) {
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double delta = double{actual[i]} - double{expected[i]};
    difference += delta * delta;
    norm += double{expected[i]} * double{expected[i]};
  }
  return std::sqrt(difference / norm);
}

std::int32_t best(const std::vector<float>& logits) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

std::vector<std::int32_t> random_tokens(std::size_t n, std::uint32_t n_vocab) {
  std::mt19937 random(11);
  std::vector<std::int32_t> tokens(n);
  for (auto& token : tokens) {
    token = static_cast<std::int32_t>(
        std::uniform_int_distribution<std::uint32_t>(3, n_vocab - 1)(random));
  }
  return tokens;
}

// Both decode the tokens that llama.cpp would choose; logits must agree at every step.
void expect_parity(const std::filesystem::path& path, std::span<const std::int32_t> prompt,
                   std::size_t n_decoded, bool same_text) {
  auto model = model::ModelFile::open(path);
  ASSERT_TRUE(model) << model.error().message();
  const std::uint32_t n_layer = model->hyperparameters().n_layer;
  LlamaReference reference(path, kContext, kThreads);
  ASSERT_TRUE(reference.valid()) << "llama.cpp refused " << path;

  auto executor = Executor::create(
      *model, {.windows = {{0, n_layer}}, .n_ctx = kContext, .n_threads = kThreads});
  ASSERT_TRUE(executor) << executor.error().message();
  ForwardSession session(**executor, n_layer, kContext, 512);

  auto actual = session.decode(prompt);
  ASSERT_TRUE(actual) << actual.error().message();
  std::vector<float> expected = reference.decode(prompt);
  for (std::size_t i = 0;; ++i) {
    ASSERT_EQ(actual->size(), expected.size());
    const double error = relative_rms(*actual, expected);
    ASSERT_LT(error, 1e-3) << "after " << i << " decoded tokens";
    if (same_text) {
      ASSERT_EQ(best(*actual), best(expected)) << "after " << i << " decoded tokens";
    }
    if (i == n_decoded) break;
    const std::int32_t token = best(expected);
    actual = session.decode(std::span(&token, 1));
    ASSERT_TRUE(actual) << actual.error().message();
    expected = reference.decode(std::span(&token, 1));
  }
}

// For files that are not in the repository: PRIMA_PARITY_MODELS=a.gguf:b.gguf
TEST(Parity, GivenModels) {
  const char* list = std::getenv("PRIMA_PARITY_MODELS");
  if (list == nullptr) GTEST_SKIP() << "PRIMA_PARITY_MODELS names no files";
  std::istringstream paths(list);
  for (std::string path; std::getline(paths, path, ':');) {
    SCOPED_TRACE(path);
    expect_parity(path, random_tokens(kPromptTokens, 256), kDecodedTokens, true);
  }
}

}  // namespace
}  // namespace prima::parity

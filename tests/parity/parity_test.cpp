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
#include <unistd.h>

#include "base/clock.h"
#include "compute/executor.h"
#include "compute/forward_session.h"
#include "compute/test_logits.h"
#include "generate/batcher.h"
#include "generate/engine.h"
#include "model/model_file.h"
#include "model/synth.h"
#include "ring/ring.h"
#include "text/sampler.h"
#include "text/tokenizer.h"

namespace prima::parity {

using compute::Executor;
using compute::ForwardSession;
using compute::relative_rms;
namespace {

constexpr std::uint32_t kContext = 512;
constexpr std::size_t kPromptTokens = 64;
constexpr std::size_t kDecodedTokens = 32;
constexpr int kThreads = 1;  // the machine may be busy with other tests

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

struct Case {
  std::string name;
  model::SynthOptions options;
};

void PrintTo(const Case& parity_case, std::ostream* out) { *out << parity_case.name; }

model::SynthOptions small_model(const std::string& architecture, const std::string& mixture) {
  model::SynthOptions options;
  options.architecture = architecture;
  options.mixture = mixture;
  options.n_layer = 3;
  options.n_embd = 512;
  options.n_ff = 768;
  options.n_head = 8;
  options.n_head_kv = 2;
  options.n_vocab = 640;
  return options;
}

// Each architecture in the shapes in which it is met.
std::vector<Case> architecture_cases() {
  std::vector<Case> cases;
  const auto add = [&](const std::string& name, const std::string& architecture, auto&& change) {
    Case added{name, small_model(architecture, "Q8_0")};
    change(added.options);
    cases.push_back(added);
  };
  const auto as_it_is = [](model::SynthOptions&) {};
  add("llama", "llama", as_it_is);
  add("llama_tied", "llama", [](auto& options) { options.tied = true; });
  add("llama_biases", "llama", [](auto& options) { options.biases = true; });
  add("llama3_rope_factors", "llama", [](auto& options) {
    options.rope_scaling = model::SynthRopeScaling::llama3;
    options.rope_factor = 8;
    options.rope_base = 500000;
  });
  add("llama_linear_rope", "llama", [](auto& options) {
    options.rope_scaling = model::SynthRopeScaling::linear;
    options.rope_factor = 4;
  });
  add("llama_yarn", "llama", [](auto& options) {
    options.rope_scaling = model::SynthRopeScaling::yarn;
    options.rope_factor = 4;
  });
  add("mixtral", "llama", [](auto& options) {
    options.n_expert = 8;
    options.n_expert_used = 2;
  });
  add("qwen2", "qwen2", as_it_is);
  add("qwen2_yarn", "qwen2", [](auto& options) {
    options.rope_scaling = model::SynthRopeScaling::yarn;
    options.rope_factor = 4;
  });
  add("qwen3", "qwen3", [](auto& options) { options.head_dim = 128; });
  add("qwen3moe", "qwen3moe", [](auto& options) {
    options.n_expert = 16;
    options.n_expert_used = 4;
    options.n_ff_expert = 256;
  });
  add("gemma3", "gemma3", [](auto& options) {
    options.n_layer = 7;  // the sixth sees everything
    options.n_swa = 24;   // the others less than the prompt
    options.tied = true;
  });
  add("gemma3_linear", "gemma3", [](auto& options) {
    options.n_layer = 7;
    options.n_swa = 24;
    options.rope_scaling = model::SynthRopeScaling::linear;
    options.rope_factor = 8;
  });
  add("gemma3_27b", "gemma3", [](auto& options) {
    options.n_layer = 62;  // by which its attention scale is recognised:
    options.n_embd = 256;  // 1 / sqrt(n_embd / n_head), not 1 / sqrt(head_dim)
    options.n_ff = 256;
    options.n_head = 4;
    options.head_dim = 128;
    options.n_swa = 24;
    options.tied = true;
  });
  add("phi3", "phi3", as_it_is);
  add("phi3_longrope", "phi3", [](auto& options) {
    options.rope_scaling = model::SynthRopeScaling::longrope;
    options.rope_n_ctx_original = 128;
    options.rope_factor = 32;
  });
  return cases;
}

std::vector<Case> quantization_cases() {
  std::vector<Case> cases;
  for (const char* mixture : {"F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0", "Q3_K",
                              "Q2_K", "IQ4_XS", "IQ2_XXS", "IQ1_S", "Q4_K_M"}) {
    cases.push_back({mixture, small_model("llama", mixture)});
  }
  return cases;
}

class ParityOf : public testing::TestWithParam<Case> {};

TEST_P(ParityOf, LogitsAgreeWithLlamaCpp) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() /
      ("prima-parity-" + std::to_string(::getpid()) + "-" + GetParam().name + ".gguf");
  const auto made = model::synthesize(GetParam().options, path);
  ASSERT_TRUE(made) << made.error().message();
  expect_parity(path, random_tokens(kPromptTokens, GetParam().options.n_vocab), kDecodedTokens,
                false);
  std::filesystem::remove(path);
}

// The directions of a text's embeddings. In one step: attention over few tokens rounds coarser.
TEST(EmbeddingParity, AgreesWithLlamaCpp) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() /
      ("prima-parity-" + std::to_string(::getpid()) + "-embedding.gguf");
  const model::SynthOptions options = small_model("llama", "F16");
  ASSERT_TRUE(model::synthesize(options, path));
  const auto model = model::ModelFile::open(path);
  ASSERT_TRUE(model) << model.error().message();
  const std::vector<std::int32_t> tokens = random_tokens(kPromptTokens, options.n_vocab);
  const SystemClock clock;
  const auto tokenizer = text::Tokenizer::load(path);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message();

  ring::RingOptions ring_options;
  ring_options.executor.n_ctx = kContext;
  ring_options.executor.max_tokens = kContext;
  ring_options.executor.n_threads = kThreads;
  const auto ring = ring::form_ring(*model, ring_options);
  ASSERT_TRUE(ring) << ring.error().message();
  generate::Engine engine(**ring, {.n_ctx = kContext, .max_tokens = kContext}, clock);
  generate::Batcher batcher(engine, *tokenizer, {}, clock);
  for (const auto& [pooling, reference_pooling] :
       {std::pair(model::Pooling::mean, LLAMA_POOLING_TYPE_MEAN),
        std::pair(model::Pooling::first, LLAMA_POOLING_TYPE_CLS),
        std::pair(model::Pooling::last, LLAMA_POOLING_TYPE_LAST)}) {
    std::vector<float> actual;
    const auto added = batcher.add(
        {.prompt = {tokens.begin(), tokens.end()}, .max_tokens = 1, .embedding = pooling},
        text::Sampler::create(*tokenizer, {}).value(),
        [&](Result<generate::Answer> answer) { actual = answer.value().embedding; });
    ASSERT_TRUE(added) << added.error().message();
    while (!batcher.idle()) ASSERT_TRUE(batcher.work());

    LlamaReference reference(path, kContext, kThreads, GGML_TYPE_F16, reference_pooling);
    ASSERT_TRUE(reference.valid());
    std::vector<float> expected = reference.embed(tokens);
    ASSERT_EQ(actual.size(), expected.size());
    double square = 0.0;
    for (const float value : expected) square += double{value} * double{value};
    for (float& value : expected) value = static_cast<float>(value / std::sqrt(square));
    EXPECT_LT(relative_rms(actual, expected), 1e-3) << static_cast<int>(pooling);
  }
  std::filesystem::remove(path);
}

std::string case_name(const testing::TestParamInfo<Case>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Architectures, ParityOf, testing::ValuesIn(architecture_cases()),
                         case_name);
INSTANTIATE_TEST_SUITE_P(Quantizations, ParityOf, testing::ValuesIn(quantization_cases()),
                         case_name);

// Real models, whose text must be the same word for word: the demo model where set-up has fetched
// it, and any others: PRIMA_PARITY_MODELS=a.gguf:b.gguf
class RealModelParity : public testing::TestWithParam<const char*> {};

TEST_P(RealModelParity, GreedyTextIsTheSame) {
  const char* list = std::getenv("PRIMA_PARITY_MODELS");
  if (list == nullptr) GTEST_SKIP() << "PRIMA_PARITY_MODELS names no files";
  std::istringstream paths(list);
  for (std::string path; std::getline(paths, path, ':');) {
    SCOPED_TRACE(path);
    if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there";
    const LlamaReference vocabulary(path, 64, kThreads);
    ASSERT_TRUE(vocabulary.valid());
    expect_parity(path, vocabulary.tokenize(GetParam()), 64, true);
  }
}

INSTANTIATE_TEST_SUITE_P(Prompts, RealModelParity,
                         testing::Values("Once upon a time", "The capital of France is",
                                         "Q: What is 2 + 2?\nA:"));

}  // namespace
}  // namespace prima::parity

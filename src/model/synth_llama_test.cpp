// Synthetic models of every architecture and type load and run in llama.cpp itself, and say
// something: finite logits, spread out, different for different prompts.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <llama.h>

#include "model/model_file.h"
#include "model/synth.h"
#include "model/testing/temporary_folder.h"

namespace prima::model {
namespace {

struct ModelDeleter {
  void operator()(llama_model* model) const { llama_model_free(model); }
};
struct ContextDeleter {
  void operator()(llama_context* context) const { llama_free(context); }
};

// A model loaded and run by llama.cpp, greedily.
class LlamaCpp {
 public:
  explicit LlamaCpp(const std::filesystem::path& path) {
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    llama_backend_init();
    model_.reset(llama_model_load_from_file(path.c_str(), llama_model_default_params()));
    if (model_ == nullptr) return;
    llama_context_params parameters = llama_context_default_params();
    parameters.n_ctx = 256;
    parameters.n_threads = 1;
    parameters.n_threads_batch = 1;
    context_.reset(llama_init_from_model(model_.get(), parameters));
  }

  bool loaded() const { return context_ != nullptr; }
  int n_vocab() const { return llama_vocab_n_tokens(llama_model_get_vocab(model_.get())); }

  std::vector<llama_token> tokenize(const std::string& text, bool add_special = true) const {
    std::vector<llama_token> tokens(4 * text.size() + 8);
    const int count = llama_tokenize(llama_model_get_vocab(model_.get()), text.data(),
                                     static_cast<int>(text.size()), tokens.data(),
                                     static_cast<int>(tokens.size()), add_special, false);
    tokens.resize(static_cast<std::size_t>(std::max(count, 0)));
    return tokens;
  }

  std::string detokenize(const std::vector<llama_token>& tokens) const {
    std::string text(tokens.size() * 32 + 16, '\0');
    const int count = llama_detokenize(llama_model_get_vocab(model_.get()), tokens.data(),
                                       static_cast<int>(tokens.size()), text.data(),
                                       static_cast<int>(text.size()), true, false);
    text.resize(static_cast<std::size_t>(std::max(count, 0)));
    return text;
  }

  // Logits after `tokens`; empty if decoding failed.
  std::vector<float> decode(std::vector<llama_token> tokens) {
    const llama_batch batch = llama_batch_get_one(tokens.data(), static_cast<int>(tokens.size()));
    if (llama_decode(context_.get(), batch) != 0) return {};
    const float* logits = llama_get_logits_ith(context_.get(), -1);
    return {logits, logits + n_vocab()};
  }

  std::vector<llama_token> generate(const std::string& prompt, int count) {
    llama_memory_clear(llama_get_memory(context_.get()), true);
    std::vector<llama_token> answer;
    std::vector<float> logits = decode(tokenize(prompt));
    for (int i = 0; i < count && !logits.empty(); ++i) {
      const auto best = std::max_element(logits.begin(), logits.end());
      answer.push_back(static_cast<llama_token>(best - logits.begin()));
      logits = decode({answer.back()});
    }
    return answer;
  }

 private:
  std::unique_ptr<llama_model, ModelDeleter> model_;
  std::unique_ptr<llama_context, ContextDeleter> context_;
};

float deviation(const std::vector<float>& values) {
  double sum = 0;
  double squares = 0;
  for (const float value : values) {
    sum += value;
    squares += static_cast<double>(value) * value;
  }
  const auto n = static_cast<double>(values.size());
  return static_cast<float>(std::sqrt(squares / n - sum / n * (sum / n)));
}

SynthOptions small(const std::string& architecture) {
  SynthOptions options;
  options.architecture = architecture;
  options.n_layer = 3;
  options.n_embd = 256;
  options.n_head = 4;
  options.n_head_kv = 2;
  options.n_vocab = 1000;
  options.n_ctx = 512;
  options.mixture = "Q4_K_M";
  if (architecture == "qwen3moe") {
    options.n_expert = 8;
    options.n_ff_expert = 256;
  }
  if (architecture == "gemma3") {
    options.n_layer = 7;
    options.n_swa = 16;
    options.tied = true;
  }
  return options;
}

void expect_sane(const SynthOptions& options) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.gguf";
  const auto written = synthesize(options, path);
  ASSERT_TRUE(written) << written.error().message();
  const auto file = ModelFile::open(path);
  ASSERT_TRUE(file) << file.error().message();
  EXPECT_EQ(std::filesystem::file_size(path), written->file_size);

  LlamaCpp llama(path);
  ASSERT_TRUE(llama.loaded());
  EXPECT_EQ(llama.n_vocab(), static_cast<int>(options.n_vocab));

  const std::vector<float> logits = llama.decode(llama.tokenize("the quick brown fox jumps"));
  ASSERT_FALSE(logits.empty());
  for (const float logit : logits) ASSERT_TRUE(std::isfinite(logit));
  EXPECT_GT(deviation(logits), 1.0f);
  EXPECT_LT(deviation(logits), 4.0f);

  // Answers neither stand still nor ignore the prompt.
  constexpr int kTokens = 32;
  const auto answer = llama.generate("the quick brown fox", kTokens);
  ASSERT_EQ(answer.size(), static_cast<std::size_t>(kTokens));
  std::vector<llama_token> distinct = answer;
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  EXPECT_GE(distinct.size(), 3u);
  EXPECT_NE(answer, llama.generate("a slow green turtle", kTokens));
  // Only an earlier word differs, so attention has to have carried it.
  EXPECT_NE(answer, llama.generate("the quick green fox", kTokens));
}

class EveryArchitecture : public testing::TestWithParam<const char*> {};

TEST_P(EveryArchitecture, RunsInLlamaCpp) { expect_sane(small(GetParam())); }

TEST_P(EveryArchitecture, RunsWithATiedOutputLayer) {
  SynthOptions options = small(GetParam());
  options.tied = true;
  expect_sane(options);
}

INSTANTIATE_TEST_SUITE_P(Synth, EveryArchitecture,
                         testing::Values("llama", "qwen2", "qwen3", "qwen3moe", "gemma3", "phi3"),
                         [](const auto& test) { return std::string(test.param); });

class EveryType : public testing::TestWithParam<const char*> {};

TEST_P(EveryType, RunsInLlamaCpp) {
  SynthOptions options = small("llama");
  options.n_layer = 2;
  options.mixture = GetParam();
  options.pure = true;
  expect_sane(options);
}

INSTANTIATE_TEST_SUITE_P(Synth, EveryType,
                         testing::Values("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1",
                                         "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K", "Q2_K", "Q2_0",
                                         "Q1_0", "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S",
                                         "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ2_0", "TQ1_0",
                                         "MXFP4", "NVFP4"),
                         [](const auto& test) { return std::string(test.param); });

class AMixture : public testing::TestWithParam<const char*> {};

TEST_P(AMixture, RunsInLlamaCpp) {
  SynthOptions options = small("llama");
  options.n_layer = 2;
  options.mixture = GetParam();
  expect_sane(options);
}

INSTANTIATE_TEST_SUITE_P(Synth, AMixture,
                         testing::Values("Q5_K_M", "Q4_K_S", "Q3_K_L", "IQ3_XS", "Q2_K", "IQ2_M",
                                         "IQ1_S", "TQ1_0"),
                         [](const auto& test) { return std::string(test.param); });

TEST(SynthInLlamaCpp, RunsMixtralAndBiases) {
  SynthOptions options = small("llama");
  options.n_expert = 4;
  expect_sane(options);
  options.n_expert = 0;
  options.biases = true;
  expect_sane(options);
}

TEST(SynthInLlamaCpp, RunsEveryRopeScaling) {
  SynthOptions options = small("llama");
  options.rope_factor = 4.0f;
  for (const auto scaling : {SynthRopeScaling::linear, SynthRopeScaling::yarn,
                             SynthRopeScaling::llama3, SynthRopeScaling::longrope}) {
    options.rope_scaling = scaling;
    expect_sane(options);
  }
  options = small("phi3");
  options.rope_scaling = SynthRopeScaling::longrope;
  options.rope_factor = 4.0f;
  options.n_rot = 48;
  expect_sane(options);
}

TEST(SynthInLlamaCpp, RunsWithRowsThatNoQuantizationBlockFits) {
  SynthOptions options = small("llama");
  options.n_embd = 96;
  options.n_head = 3;
  options.n_head_kv = 1;
  options.n_ff = 160;
  expect_sane(options);
  options.mixture = "IQ2_XXS";
  expect_sane(options);
}

TEST(SynthInLlamaCpp, WritesAndReadsAnyText) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.gguf";
  for (const std::uint32_t n_vocab : {260u, 261u, 1000u, 128256u}) {
    SynthOptions options = small("llama");
    options.n_layer = 1;
    options.n_embd = 64;
    options.n_vocab = n_vocab;
    options.mixture = "F16";
    ASSERT_TRUE(synthesize(options, path));
    LlamaCpp llama(path);
    ASSERT_TRUE(llama.loaded()) << n_vocab;
    for (const std::string text : {"hello world", "  two  spaces\n\ttab ", "Grüße, 世界 🌍",
                                   "if (x < 3) { return \"y\"; }", "bababababa"}) {
      EXPECT_EQ(llama.detokenize(llama.tokenize(text, false)), text) << n_vocab;
    }
  }
}

TEST(SynthInLlamaCpp, ExtendedModelsSayTheSame) {
  for (const char* architecture : {"llama", "qwen2", "qwen3", "qwen3moe", "gemma3", "phi3"}) {
    const TemporaryFolder folder;
    const auto path = folder.path() / "model.gguf";
    const auto longer = folder.path() / "longer.gguf";
    const SynthOptions options = small(architecture);
    ASSERT_TRUE(synthesize(options, path));
    const auto extended = extend_model(path, options.n_layer + 6, 7, longer);
    ASSERT_TRUE(extended) << extended.error().message();
    const auto file = ModelFile::open(longer);
    ASSERT_TRUE(file) << file.error().message();
    EXPECT_EQ(file->hyperparameters().n_layer, options.n_layer + 6);

    LlamaCpp before(path);
    LlamaCpp after(longer);
    ASSERT_TRUE(before.loaded());
    ASSERT_TRUE(after.loaded()) << architecture;
    // One token at a time: kernels for several round differently, and llama.cpp drops all but the
    // last token in the last layer only.
    for (const llama_token token : before.tokenize("the quick brown fox jumps over")) {
      EXPECT_EQ(before.decode({token}), after.decode({token})) << architecture;
    }
  }
}

}  // namespace
}  // namespace prima::model

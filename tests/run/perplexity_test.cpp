// prima model perplexity against the same figure from llama.cpp's library.
#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "run/program.h"
#include "run/synthetic_model.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <llama.h>

namespace prima::test {
namespace {

using testing::HasSubstr;

std::string random_text(std::size_t n) {
  std::mt19937 random(5);
  std::string text;
  for (std::size_t i = 0; i < n; ++i) {
    text += random() % 6 == 0 ? ' ' : static_cast<char>('a' + random() % 26);
  }
  return text;
}

// As llama-perplexity: chunks of n_ctx with a BOS in front, the second half scored.
double llama_perplexity(const std::string& path, const std::string& text, int n_ctx) {
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  const std::unique_ptr<llama_model, decltype(&llama_model_free)> model(
      llama_model_load_from_file(path.c_str(), llama_model_default_params()), llama_model_free);
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = static_cast<std::uint32_t>(n_ctx);
  const std::unique_ptr<llama_context, decltype(&llama_free)> context(
      llama_init_from_model(model.get(), params), llama_free);
  const llama_vocab* vocab = llama_model_get_vocab(model.get());
  const int n_vocab = llama_vocab_n_tokens(vocab);
  std::vector<llama_token> tokens(text.size() + 8);
  tokens.resize(static_cast<std::size_t>(
      llama_tokenize(vocab, text.data(), static_cast<int>(text.size()), tokens.data(),
                     static_cast<int>(tokens.size()), true, false)));

  llama_batch batch = llama_batch_init(n_ctx, 0, 1);
  double sum = 0.0;
  int n = 0;
  for (std::size_t start = 0; start + static_cast<std::size_t>(n_ctx) <= tokens.size();
       start += static_cast<std::size_t>(n_ctx)) {
    llama_memory_clear(llama_get_memory(context.get()), true);
    batch.n_tokens = n_ctx;
    for (int i = 0; i < n_ctx; ++i) {
      batch.token[i] =
          i == 0 ? llama_vocab_bos(vocab) : tokens[start + static_cast<std::size_t>(i)];
      batch.pos[i] = i;
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = 1;
    }
    EXPECT_EQ(llama_decode(context.get(), batch), 0);
    for (int i = n_ctx / 2; i < n_ctx - 1; ++i) {
      const float* logits = llama_get_logits_ith(context.get(), i);
      const float highest = *std::max_element(logits, logits + n_vocab);
      double total = 0.0;
      for (int k = 0; k < n_vocab; ++k) total += std::exp(logits[k] - highest);
      const llama_token next = tokens[start + static_cast<std::size_t>(i) + 1];
      sum += std::log(total) - (logits[next] - highest);
      ++n;
    }
  }
  llama_batch_free(batch);
  return std::exp(sum / n);
}

TEST(Perplexity, IsThatOfLlamaCpp) {
  const TemporaryFolder folder;
  const std::string model = make_model(folder, "model.gguf", 512);
  const std::string text = random_text(3000);
  const std::string file = folder.file("text.txt", text);
  for (const int n_ctx : {64, 200}) {
    const Outcome outcome =
        run({"model", "perplexity", "-m", model, "-f", file, "-c", std::to_string(n_ctx)});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    ASSERT_THAT(outcome.out, testing::StartsWith("Perplexity: "));
    const double ours = std::stod(outcome.out.substr(std::string("Perplexity: ").size()));
    const double theirs = llama_perplexity(model, text, n_ctx);
    EXPECT_NEAR(ours / theirs, 1.0, 0.005) << ours << " and " << theirs;
  }
}

TEST(Perplexity, RefusesWhatGivesNoFigure) {
  const TemporaryFolder folder;
  const std::string model = make_model(folder, "model.gguf", 512);
  const std::string text = folder.file("text.txt", "too short");
  const Outcome too_short = run({"model", "perplexity", "-m", model, "-f", text});
  EXPECT_EQ(too_short.status, 2);
  EXPECT_THAT(too_short.err, AllOf(HasSubstr("512"), HasSubstr("-c")));
  const Outcome too_long = run({"model", "perplexity", "-m", model, "-f", text, "-c", "4096"});
  EXPECT_EQ(too_long.status, 2);
  EXPECT_THAT(too_long.err, HasSubstr("trained"));
}

}  // namespace
}  // namespace prima::test

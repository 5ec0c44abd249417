// llama.cpp's own library on the same file, for tests to compare with. Test code only.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include <llama.h>

namespace prima::parity {

class LlamaReference {
 public:
  // Null members, so valid() is false, if llama.cpp refuses the file.
  LlamaReference(const std::filesystem::path& path, std::uint32_t n_ctx, int n_threads,
                 ggml_type kv_type = GGML_TYPE_F16,
                 enum llama_pooling_type pooling = LLAMA_POOLING_TYPE_NONE, bool repack = true) {
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    model_params.use_extra_bufts = repack;
    model_.reset(llama_model_load_from_file(path.c_str(), model_params));
    if (!model_) return;
    llama_context_params params = llama_context_default_params();
    params.n_ctx = n_ctx;
    params.n_batch = n_ctx;
    params.n_ubatch = 512;
    params.n_threads = n_threads;
    params.n_threads_batch = n_threads;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.type_k = kv_type;
    params.type_v = kv_type;
    params.no_perf = true;
    params.embeddings = pooling != LLAMA_POOLING_TYPE_NONE;
    params.pooling_type = pooling;
    context_.reset(llama_init_from_model(model_.get(), params));
  }

  bool valid() const { return context_ != nullptr; }
  const llama_model* model() const { return model_.get(); }

  std::vector<std::int32_t> tokenize(std::string_view text) const {
    std::vector<std::int32_t> tokens(text.size() + 2);
    const int n = llama_tokenize(llama_model_get_vocab(model_.get()), text.data(),
                                 static_cast<int>(text.size()), tokens.data(),
                                 static_cast<int>(tokens.size()), true, true);
    tokens.resize(static_cast<std::size_t>(n > 0 ? n : 0));
    return tokens;
  }

  // Logits of the last token after `tokens` have been added; empty on failure.
  std::vector<float> decode(std::span<const std::int32_t> tokens) {
    std::vector<std::int32_t> copy(tokens.begin(), tokens.end());
    const llama_batch batch = llama_batch_get_one(copy.data(), static_cast<int>(copy.size()));
    if (llama_decode(context_.get(), batch) != 0) return {};
    const float* logits = llama_get_logits_ith(context_.get(), -1);
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model_.get()));
    return {logits, logits + n_vocab};
  }

  // The tokens' embedding, as the pooling makes it; empty on failure.
  std::vector<float> embed(std::span<const std::int32_t> tokens) {
    llama_batch batch = llama_batch_init(static_cast<int>(tokens.size()), 0, 1);
    batch.n_tokens = static_cast<int>(tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      batch.token[i] = tokens[i];
      batch.pos[i] = static_cast<llama_pos>(i);
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = 1;
    }
    const bool done = llama_decode(context_.get(), batch) == 0;
    llama_batch_free(batch);
    if (!done) return {};
    const float* values = llama_get_embeddings_seq(context_.get(), 0);
    return {values, values + llama_model_n_embd(model_.get())};
  }

  void clear() { llama_memory_clear(llama_get_memory(context_.get()), false); }

 private:
  struct Free {
    void operator()(llama_model* model) const { llama_model_free(model); }
    void operator()(llama_context* context) const { llama_free(context); }
  };
  std::unique_ptr<llama_model, Free> model_;
  std::unique_ptr<llama_context, Free> context_;
};

}  // namespace prima::parity

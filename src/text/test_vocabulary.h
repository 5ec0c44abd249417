// A small vocabulary for tests: SentencePiece with all bytes, the printable ASCII characters, a few
// words, and ChatML's special tokens.
#pragma once

#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include <gguf.h>
#include <unistd.h>

namespace prima::text {

class TestVocabulary {
 public:
  // `chat_template`: written into the metadata unless empty.
  explicit TestVocabulary(const std::string& chat_template = "") {
    add("<unk>", 0, kUnknown);
    add("<s>", 0, kControl);
    add("</s>", 0, kControl);
    static constexpr char kHex[] = "0123456789ABCDEF";
    for (int byte = 0; byte < 256; ++byte) {
      add(std::string("<0x") + kHex[byte / 16] + kHex[byte % 16] + ">", 0, kByte);
    }
    add("<|im_start|>", 0, kControl);
    add("<|im_end|>", 0, kControl);
    add("\xE2\x96\x81", -1000, kNormal);
    for (char c = '!'; c <= '~'; ++c) add(std::string(1, c), -1000, kNormal);
    // Each is reached by merging pairs that are tokens too, the best score first.
    for (const char* word : {"he", "hel", "hell", "hello", "wo", "wor", "worl", "world"}) {
      add(word, -static_cast<float>(tokens_.size()), kNormal);
    }

    gguf_context* file = gguf_init_empty();
    gguf_set_val_str(file, "general.architecture", "llama");
    gguf_set_val_str(file, "tokenizer.ggml.model", "llama");
    std::vector<const char*> texts;
    for (const std::string& token : tokens_) texts.push_back(token.c_str());
    gguf_set_arr_str(file, "tokenizer.ggml.tokens", texts.data(), texts.size());
    gguf_set_arr_data(file, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores_.data(),
                      scores_.size());
    gguf_set_arr_data(file, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types_.data(),
                      types_.size());
    gguf_set_val_u32(file, "tokenizer.ggml.bos_token_id", 1);
    gguf_set_val_u32(file, "tokenizer.ggml.eos_token_id", 2);
    gguf_set_val_u32(file, "tokenizer.ggml.eot_token_id", 260);
    if (!chat_template.empty()) {
      gguf_set_val_str(file, "tokenizer.chat_template", chat_template.c_str());
    }
    std::string name =
        (std::filesystem::temp_directory_path() / "prima-vocabulary-XXXXXX").string();
    const int descriptor = mkstemp(name.data());
    if (descriptor >= 0) close(descriptor);
    path_ = name;
    gguf_write_to_file(file, path_.c_str(), /*only_meta=*/true);
    gguf_free(file);
  }

  ~TestVocabulary() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  TestVocabulary(const TestVocabulary&) = delete;
  TestVocabulary& operator=(const TestVocabulary&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::int32_t size() const { return static_cast<std::int32_t>(tokens_.size()); }

  // -1 if there is none.
  std::int32_t token(const std::string& text) const {
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      if (tokens_[i] == text) return static_cast<std::int32_t>(i);
    }
    return -1;
  }

 private:
  static constexpr std::int32_t kNormal = 1;  // llama.h's enum llama_token_type
  static constexpr std::int32_t kUnknown = 2;
  static constexpr std::int32_t kControl = 3;
  static constexpr std::int32_t kByte = 6;

  void add(std::string text, float score, std::int32_t type) {
    tokens_.push_back(std::move(text));
    scores_.push_back(score);
    types_.push_back(type);
  }

  std::vector<std::string> tokens_;
  std::vector<float> scores_;
  std::vector<std::int32_t> types_;
  std::filesystem::path path_;
};

}  // namespace prima::text

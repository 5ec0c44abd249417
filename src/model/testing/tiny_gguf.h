// Small GGUF files in memory, for tests of what reads them.
#pragma once

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <ios>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/gguf.h"
#include "model/gguf_writer.h"
#include "model/hyperparameters.h"
#include "model/synth_vocabulary.h"
#include "model/tensor_layout.h"
#include "model/tokenizer_check.h"

namespace prima::model {

// Metadata of a model of two layers, and the tensors it needs, in F32.
inline Metadata tiny_metadata(const std::string& architecture = "llama") {
  Metadata metadata;
  const std::string prefix = architecture + ".";
  const auto set = [&](const char* key, std::uint64_t value) { metadata.set(prefix + key, value); };
  metadata.set("general.architecture", architecture);
  metadata.set("general.name", std::string("Tiny"));
  set("context_length", 64);
  set("embedding_length", 8);
  set("block_count", 2);
  set("feed_forward_length", 16);
  set("attention.head_count", 2);
  set("attention.head_count_kv", 1);
  metadata.set(prefix + "attention.layer_norm_rms_epsilon", 1e-5);
  if (architecture == "qwen3moe") {
    set("expert_count", 4);
    set("expert_used_count", 2);
    set("expert_feed_forward_length", 12);
  }
  add_synthetic_vocabulary(kSmallestVocabulary, metadata);
  return metadata;
}

inline std::vector<GgufTensor> tiny_tensors(const Metadata& metadata) {
  std::vector<GgufTensor> tensors;
  const auto model = read_hyperparameters("tiny", metadata);
  if (!model) return tensors;
  for (const ExpectedTensor& expected : expected_tensors(*model)) {
    if (!expected.required) continue;
    GgufTensor tensor;
    tensor.name = tensor_name(expected.role, expected.layer);
    tensor.shape = expected.shape;
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

// Header and zeros for data.
inline std::string gguf_bytes(const Metadata& metadata, std::vector<GgufTensor> tensors,
                              Bytes alignment = 32) {
  std::string bytes = encode_gguf_header(metadata, tensors, alignment);
  bytes.resize(gguf_file_size(bytes, tensors, alignment), '\0');
  return bytes;
}

inline std::string tiny_gguf(const std::string& architecture = "llama") {
  const Metadata metadata = tiny_metadata(architecture);
  return gguf_bytes(metadata, tiny_tensors(metadata));
}

inline Result<Gguf> parse(std::string_view bytes) {
  return parse_gguf("tiny.gguf", std::as_bytes(std::span(bytes)), bytes.size());
}

// Everything that opening a model checks.
inline Status check_model_bytes(std::string_view bytes) {
  PRIMA_ASSIGN_OR_RETURN(const auto gguf, parse(bytes));
  PRIMA_ASSIGN_OR_RETURN(const auto model, read_hyperparameters("tiny.gguf", gguf.metadata));
  PRIMA_RETURN_IF_ERROR(check_tensors("tiny.gguf", model, gguf.tensors));
  return check_tokenizer("tiny.gguf", gguf.metadata);
}

inline void write_file(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace prima::model

// A model as it lies on disk: one GGUF file, or several that it was split into.
//
// Invariants of an opened ModelFile:
//  1. Every tensor's bytes lie inside its file, none overlap, and types and shapes are ggml's.
//  2. The hyperparameters are complete and agree with the shapes of the tensors present.
//  3. Every tensor that the architecture needs is there, for every layer.
//  4. Tokenizer metadata is consistent, so that llama.cpp's library can load it without aborting.
//
// Immutable once opened, so safe to read from any thread. Holds no file open.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <ggml.h>

#include "base/byte_range.h"
#include "base/result.h"
#include "model/gguf.h"
#include "model/hyperparameters.h"
#include "model/tensor_role.h"

namespace prima::model {

struct TensorInfo {
  std::string name;
  ggml_type type = GGML_TYPE_F32;
  std::array<std::int64_t, 4> shape{1, 1, 1, 1};  // ggml's ne: columns first
  std::uint32_t file = 0;                         // index into ModelFile::paths()
  ByteRange bytes;                                // in that file
};

class ModelFile {
 public:
  // `path`: a GGUF, or the first of a split ("name-00001-of-00004.gguf"; the others are found
  // beside it). Errors name the file, the thing and the remedy.
  static Result<ModelFile> open(const std::filesystem::path& path);

  const Hyperparameters& hyperparameters() const { return hyperparameters_; }
  const Metadata& metadata() const { return metadata_; }
  std::span<const std::filesystem::path> paths() const { return paths_; }
  std::span<const TensorInfo> tensors() const { return tensors_; }  // in file order

  // nullptr if the model has no such tensor. `layer` is ignored for roles of the whole model.
  const TensorInfo* find(TensorRole role, int layer = -1) const;
  const TensorInfo* find(std::string_view name) const;

  std::string name() const;     // general.name, or the file's name
  std::string mixture() const;  // "Q4_K_M", from general.file_type, or the commonest type
  Bytes weight_bytes() const;   // of all tensors
  Bytes layer_bytes(int layer) const;
  std::uint64_t parameter_count() const;

 private:
  ModelFile() = default;

  std::vector<std::filesystem::path> paths_;
  Metadata metadata_;
  Hyperparameters hyperparameters_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string, std::size_t> by_name_;
};

}  // namespace prima::model

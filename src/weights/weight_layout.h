// Which tensors a device's layers need, in order of use, where each lies in a file and in which
// layout: the model's own GGUF, or a layer store.
//
// Value types; thread-compatible.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <ggml-backend.h>

#include "base/byte_range.h"
#include "model/model_file.h"

namespace prima::weights {

// Of bytes that may have been damaged.
struct Checksummed {
  Bytes size = 0;
  std::uint64_t checksum = 0;
};

// A tensor, or some rows of one.
struct PlacedTensor {
  model::TensorRole role;
  int layer = -1;
  std::string name;
  ggml_type type = GGML_TYPE_F32;
  std::array<std::int64_t, 4> shape{1, 1, 1, 1};
  std::uint32_t file = 0;  // index into WeightLayout::paths
  ByteRange bytes;
  // Whose layout the bytes are in: ggml's plain CPU buffer, or one of its extra types.
  ggml_backend_buffer_type_t buffer_type = nullptr;
  std::vector<Checksummed> checksums{};  // of all of the bytes, run after run; or of none
  std::uint32_t part = 0;
  std::uint32_t n_parts = 1;
};

struct WeightLayout {
  std::vector<std::filesystem::path> paths;
  std::vector<PlacedTensor> tensors;  // in order of use: layer after layer, the output layer last
};

struct WeightRequest {
  std::vector<int> layers;  // in order of use
  bool embedding = false;
  bool output = false;  // the output layer and its norm
};

// Straight from the model's files. A tied output layer is a tensor of its own here. Large matrices
// come in parts: what is streamed takes slots as large as the largest stage.
WeightLayout gguf_layout(const model::ModelFile& model, const WeightRequest& request);

// The same with parts of at most so many bytes, where those of a matrix lie one after the other and
// are laid out alike: larger ones are computed faster.
WeightLayout in_larger_parts(const WeightLayout& layout, Bytes largest);

// The order in which a layer's tensors are computed with (compute/forward.cpp), so the order of
// streaming. Tensors with the same rank are used together.
int rank_of_use(model::TensorRole role);

// Matrices; all else is small and always in memory. The embedding is neither: of it a row per token
// is read.
bool is_staged(const PlacedTensor& tensor);

}  // namespace prima::weights

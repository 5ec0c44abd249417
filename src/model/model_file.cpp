#include "model/model_file.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <utility>

#include <spdlog/fmt/fmt.h>

#include "model/split_files.h"
#include "model/tensor_layout.h"
#include "model/tokenizer_check.h"

namespace prima::model {
namespace {

// llama.cpp's llama_ftype, as people write it.
constexpr std::pair<std::uint32_t, std::string_view> kMixtures[] = {
    {0, "F32"},      {1, "F16"},      {2, "Q4_0"},    {3, "Q4_1"},    {7, "Q8_0"},
    {8, "Q5_0"},     {9, "Q5_1"},     {10, "Q2_K"},   {11, "Q3_K_S"}, {12, "Q3_K_M"},
    {13, "Q3_K_L"},  {14, "Q4_K_S"},  {15, "Q4_K_M"}, {16, "Q5_K_S"}, {17, "Q5_K_M"},
    {18, "Q6_K"},    {19, "IQ2_XXS"}, {20, "IQ2_XS"}, {21, "Q2_K_S"}, {22, "IQ3_XS"},
    {23, "IQ3_XXS"}, {24, "IQ1_S"},   {25, "IQ4_NL"}, {26, "IQ3_S"},  {27, "IQ3_M"},
    {28, "IQ2_S"},   {29, "IQ2_M"},   {30, "IQ4_XS"}, {31, "IQ1_M"},  {32, "BF16"},
    {36, "TQ1_0"},   {37, "TQ2_0"},   {38, "MXFP4"},  {39, "NVFP4"},  {40, "Q1_0"},
    {41, "Q2_0"},
};

std::uint64_t element_count(const TensorInfo& tensor) {
  std::uint64_t count = 1;
  for (const std::int64_t dimension : tensor.shape) count *= static_cast<std::uint64_t>(dimension);
  return count;
}

std::string upper(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

}  // namespace

std::string type_name(ggml_type type) { return upper(ggml_type_name(type)); }

std::string_view mixture_name(std::uint32_t file_type) {
  for (const auto& [number, name] : kMixtures) {
    if (number == file_type) return name;
  }
  return {};
}

std::optional<std::uint32_t> file_type_of_mixture(std::string_view name) {
  for (const auto& [number, known] : kMixtures) {
    if (known == name) return number;
  }
  return std::nullopt;
}

Result<ModelFile> ModelFile::open(const std::filesystem::path& path) {
  PRIMA_ASSIGN_OR_RETURN(auto files, read_split_files(path));
  ModelFile model;
  model.metadata_ = std::move(files.front().gguf.metadata);
  const std::string name = path.string();
  PRIMA_ASSIGN_OR_RETURN(model.hyperparameters_, read_hyperparameters(name, model.metadata_));

  std::vector<GgufTensor> directory;
  for (std::size_t i = 0; i < files.size(); ++i) {
    model.paths_.push_back(files[i].path);
    for (GgufTensor& tensor : files[i].gguf.tensors) {
      model.tensors_.push_back({.name = tensor.name,
                                .type = tensor.type,
                                .shape = tensor.shape,
                                .file = static_cast<std::uint32_t>(i),
                                .bytes = {tensor.offset, tensor.size}});
      directory.push_back(std::move(tensor));
    }
  }
  PRIMA_RETURN_IF_ERROR(check_tensors(name, model.hyperparameters_, directory));
  PRIMA_RETURN_IF_ERROR(check_tokenizer(name, model.metadata_));
  for (std::size_t i = 0; i < model.tensors_.size(); ++i) {
    model.by_name_.emplace(model.tensors_[i].name, i);
  }
  return model;
}

const TensorInfo* ModelFile::find(TensorRole role, int layer) const {
  return find(tensor_name(role, layer));
}

const TensorInfo* ModelFile::find(std::string_view name) const {
  const auto found = by_name_.find(std::string(name));
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

std::string ModelFile::name() const {
  const std::string* name = metadata_.find_string("general.name");
  if (name != nullptr && !name->empty()) return *name;
  return paths_.front().stem().string();
}

std::string ModelFile::mixture() const {
  if (const auto number = metadata_.find_unsigned("general.file_type")) {
    const auto known = mixture_name(static_cast<std::uint32_t>(*number));
    if (!known.empty()) return std::string(known);
  }
  std::map<ggml_type, Bytes> bytes;
  for (const TensorInfo& tensor : tensors_) bytes[tensor.type] += tensor.bytes.size;
  const auto most = std::max_element(
      bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return type_name(most->first);
}

Bytes ModelFile::weight_bytes() const {
  Bytes total = 0;
  for (const TensorInfo& tensor : tensors_) total += tensor.bytes.size;
  return total;
}

Bytes ModelFile::layer_bytes(int layer) const {
  Bytes total = 0;
  for (const TensorRole role : all_tensor_roles()) {
    if (!is_per_layer(role)) continue;
    if (const TensorInfo* tensor = find(role, layer)) total += tensor->bytes.size;
  }
  return total;
}

std::uint64_t ModelFile::parameter_count() const {
  std::uint64_t total = 0;
  for (const TensorInfo& tensor : tensors_) total += element_count(tensor);
  return total;
}

}  // namespace prima::model

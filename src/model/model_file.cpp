#include "model/model_file.h"

#include <algorithm>
#include <map>

#include <spdlog/fmt/fmt.h>

#include "model/mixture_names.h"
#include "model/split_files.h"
#include "model/tensor_layout.h"
#include "model/tokenizer_check.h"

namespace prima::model {
namespace {

std::uint64_t element_count(const TensorInfo& tensor) {
  std::uint64_t count = 1;
  for (const std::int64_t dimension : tensor.shape) count *= static_cast<std::uint64_t>(dimension);
  return count;
}

}  // namespace

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

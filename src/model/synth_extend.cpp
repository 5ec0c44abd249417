#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <spdlog/fmt/fmt.h>
#include <unistd.h>

#include "model/gguf_writer.h"
#include "model/model_file.h"
#include "model/synth.h"
#include "model/synth_tensor.h"

namespace prima::model {
namespace {

class OpenFile {
 public:
  static Result<OpenFile> open(const std::filesystem::path& path) {
    OpenFile file;
    file.descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file.descriptor_ < 0) {
      return fail(ErrorCode::io,
                  fmt::format("{}: cannot be opened: {}", path.string(), std::strerror(errno)),
                  "Check the file's permissions");
    }
    return file;
  }
  OpenFile(OpenFile&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  OpenFile& operator=(OpenFile&&) = delete;
  ~OpenFile() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  int descriptor() const { return descriptor_; }

 private:
  OpenFile() = default;
  int descriptor_ = -1;
};

// One tensor of the extended model: copied from the source, or new.
struct Planned {
  GgufTensor tensor;
  const TensorInfo* copied = nullptr;
  TensorRole role = TensorRole::token_embedding;
};

// Lists of one element for each layer go on as they began.
void extend_lists(const ModelFile& source, std::uint32_t n_layer, Metadata& metadata) {
  const Hyperparameters& model = source.hyperparameters();
  const std::string prefix = std::string(model.architecture->name) + ".";
  const std::string window_key = prefix + "attention.sliding_window_pattern";
  for (const auto& [key, value] : source.metadata().values()) {
    const auto* array = std::get_if<MetadataArray>(&value);
    if (array == nullptr || !key.starts_with(prefix)) continue;
    MetadataArray longer = *array;
    const bool is_window_pattern = key == window_key;
    std::visit(
        [&](auto& elements) {
          if (elements.size() != model.n_layer) return;
          for (std::uint32_t layer = model.n_layer; layer < n_layer; ++layer) {
            if constexpr (std::is_same_v<std::decay_t<decltype(elements)>,
                                         std::vector<std::string>>) {
              elements.push_back(elements[layer % model.n_layer]);
            } else if (is_window_pattern) {
              elements.push_back(model.has_sliding_window(layer) ? 1 : 0);
            } else {
              const auto element = elements[layer % model.n_layer];
              elements.push_back(element);
            }
          }
        },
        longer);
    metadata.set(key, std::move(longer), *source.metadata().type(key));
  }
}

Metadata extended_metadata(const ModelFile& source, std::uint32_t n_layer) {
  Metadata metadata = source.metadata();
  for (const char* key : {"split.no", "split.count", "split.tensors.count", "general.alignment"}) {
    metadata.erase(key);  // the result is one file, with the usual alignment
  }
  const std::string key = std::string(source.hyperparameters().architecture->name) + ".block_count";
  metadata.set(key, std::uint64_t{n_layer});
  extend_lists(source, n_layer, metadata);
  return metadata;
}

// Where a number of the model follows from the number of its layers (Gemma 3 27B's attention
// scale), other layers would make it another model.
Status check_same_model(const std::string& name, const Hyperparameters& before,
                        const Hyperparameters& after) {
  bool same = before.attention_scale == after.attention_scale;
  for (std::uint32_t layer = 0; layer < before.n_layer; ++layer) {
    same = same && before.has_sliding_window(layer) == after.has_sliding_window(layer);
  }
  if (same) return {};
  return fail(ErrorCode::unsupported,
              fmt::format("{}: with {} layers, programs take this model for another of its family",
                          name, after.n_layer),
              "Choose another number of layers");
}

std::vector<Planned> plan_tensors(const ModelFile& source, std::uint32_t n_layer) {
  std::vector<Planned> plan;
  for (const TensorInfo& tensor : source.tensors()) {
    plan.push_back(
        {{.name = tensor.name, .type = tensor.type, .shape = tensor.shape}, &tensor, {}});
  }
  const std::uint32_t n_before = source.hyperparameters().n_layer;
  for (std::uint32_t layer = n_before; layer < n_layer; ++layer) {
    const int like = static_cast<int>(layer % n_before);
    for (const TensorRole role : all_tensor_roles()) {
      if (!is_per_layer(role)) continue;
      const TensorInfo* tensor = source.find(role, like);
      if (tensor == nullptr) continue;
      plan.push_back({{.name = tensor_name(role, static_cast<int>(layer)),
                       .type = tensor->type,
                       .shape = tensor->shape},
                      nullptr,
                      role});
    }
  }
  return plan;
}

// What adds to the hidden state, and so has to be zero in layers that change nothing.
bool adds_to_hidden_state(TensorRole role) {
  switch (role) {
    case TensorRole::attention_output:
    case TensorRole::attention_output_bias:
    case TensorRole::experts_down:
    case TensorRole::ffn_down:
    case TensorRole::ffn_down_bias: return true;
    default: return false;
  }
}

}  // namespace

Result<SynthResult> extend_model(const std::filesystem::path& source_path, std::uint32_t n_layer,
                                 std::uint64_t seed, const std::filesystem::path& path,
                                 const SynthProgress& progress) {
  PRIMA_ASSIGN_OR_RETURN(const auto source, ModelFile::open(source_path));
  const Hyperparameters& before = source.hyperparameters();
  if (n_layer <= before.n_layer) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("{}: has {} layers already; {} were asked for", source_path.string(),
                            before.n_layer, n_layer),
                "Ask for more: the number is that of all layers");
  }
  const Metadata metadata = extended_metadata(source, n_layer);
  auto after = read_hyperparameters(source_path.string(), metadata);
  if (!after) {
    return fail(ErrorCode::invalid_argument, std::move(after.error().what), "Ask for fewer layers");
  }
  PRIMA_RETURN_IF_ERROR(check_same_model(source_path.string(), before, *after));

  const auto plan = plan_tensors(source, n_layer);
  std::vector<GgufTensor> tensors;
  for (const Planned& planned : plan) tensors.push_back(planned.tensor);
  const std::string header = encode_gguf_header(metadata, tensors);
  const Bytes size = gguf_file_size(header, tensors);

  std::vector<OpenFile> files;
  for (const auto& file_path : source.paths()) {
    PRIMA_ASSIGN_OR_RETURN(auto file, OpenFile::open(file_path));
    files.push_back(std::move(file));
  }
  PRIMA_ASSIGN_OR_RETURN(auto file, AtomicFile::create(path, size));
  TensorWriter writer(file, size, seed, progress);
  PRIMA_RETURN_IF_ERROR(writer.write_header(header));
  const bool tied = source.find(TensorRole::output) == nullptr;
  for (std::size_t i = 0; i < plan.size(); ++i) {
    const Planned& planned = plan[i];
    if (planned.copied != nullptr) {
      PRIMA_RETURN_IF_ERROR(writer.write_copy(tensors[i], files[planned.copied->file].descriptor(),
                                              planned.copied->bytes.offset,
                                              source.paths()[planned.copied->file].string()));
    } else if (adds_to_hidden_state(planned.role)) {
      PRIMA_RETURN_IF_ERROR(writer.write_zeros(tensors[i]));
    } else {
      const auto distribution = distribution_of(before, planned.role, tensors[i].shape[0], tied);
      PRIMA_RETURN_IF_ERROR(writer.write_random(tensors[i], distribution));
    }
  }
  PRIMA_RETURN_IF_ERROR(writer.finish());
  return SynthResult{size, tensors.size()};
}

}  // namespace prima::model

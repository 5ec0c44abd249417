#include "model/gguf_writer.h"

#include <bit>
#include <type_traits>

namespace prima::model {
namespace {

constexpr std::uint32_t kVersion = 3;

template <typename T>
void put(std::string& out, T value) {
  static_assert(std::endian::native == std::endian::little, "GGUF is written as it lies in memory");
  static_assert(std::is_trivially_copyable_v<T>);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_string(std::string& out, std::string_view text) {
  put(out, static_cast<std::uint64_t>(text.size()));
  out.append(text);
}

// `value` was widened when it was read; this narrows it again.
template <typename T>
void put_number(std::string& out, GgufType type, T value) {
  switch (type) {
    case GgufType::uint8: return put(out, static_cast<std::uint8_t>(value));
    case GgufType::int8: return put(out, static_cast<std::int8_t>(value));
    case GgufType::uint16: return put(out, static_cast<std::uint16_t>(value));
    case GgufType::int16: return put(out, static_cast<std::int16_t>(value));
    case GgufType::uint32: return put(out, static_cast<std::uint32_t>(value));
    case GgufType::int32: return put(out, static_cast<std::int32_t>(value));
    case GgufType::uint64: return put(out, static_cast<std::uint64_t>(value));
    case GgufType::int64: return put(out, static_cast<std::int64_t>(value));
    case GgufType::float32: return put(out, static_cast<float>(value));
    case GgufType::float64: return put(out, static_cast<double>(value));
    case GgufType::boolean: return put(out, static_cast<std::uint8_t>(value != T{}));
    case GgufType::string:
    case GgufType::array: break;  // not numbers: put_value never passes them
  }
}

void put_value(std::string& out, const MetadataValue& value, MetadataType type) {
  std::visit(
      [&](const auto& held) {
        using Held = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<Held, std::string>) {
          put_string(out, held);
        } else if constexpr (std::is_same_v<Held, MetadataArray>) {
          put(out, static_cast<std::uint32_t>(type.element));
          std::visit(
              [&](const auto& elements) {
                put(out, static_cast<std::uint64_t>(elements.size()));
                for (const auto& element : elements) {
                  if constexpr (std::is_same_v<std::decay_t<decltype(element)>, std::string>) {
                    put_string(out, element);
                  } else {
                    put_number(out, type.element, element);
                  }
                }
              },
              held);
        } else {
          put_number(out, type.type, held);
        }
      },
      value);
}

void put_metadata(std::string& out, const Metadata& metadata) {
  const auto put_pair = [&](const std::string& key, const MetadataValue& value) {
    const MetadataType type = *metadata.type(key);
    put_string(out, key);
    put(out, static_cast<std::uint32_t>(type.type));
    put_value(out, value, type);
  };
  // The architecture first, as tools that read only the beginning expect.
  constexpr std::string_view kFirst = "general.architecture";
  if (const MetadataValue* value = metadata.find(kFirst)) put_pair(std::string(kFirst), *value);
  for (const auto& [key, value] : metadata.values()) {
    if (key != kFirst) put_pair(key, value);
  }
}

std::uint32_t dimension_count(const GgufTensor& tensor) {
  std::uint32_t count = 4;
  while (count > 1 && tensor.shape[count - 1] == 1) --count;
  return count;
}

void put_directory(std::string& out, std::span<GgufTensor> tensors, Bytes alignment) {
  Bytes offset = 0;
  for (GgufTensor& tensor : tensors) {
    const auto rows = static_cast<Bytes>(tensor.shape[1] * tensor.shape[2] * tensor.shape[3]);
    tensor.size = ggml_row_size(tensor.type, tensor.shape[0]) * rows;
    tensor.offset = offset;
    put_string(out, tensor.name);
    const std::uint32_t n_dimensions = dimension_count(tensor);
    put(out, n_dimensions);
    for (std::uint32_t i = 0; i < n_dimensions; ++i) put(out, tensor.shape[i]);
    put(out, static_cast<std::uint32_t>(tensor.type));
    put(out, offset);
    offset = align_up(offset + tensor.size, alignment);
  }
}

}  // namespace

std::string encode_gguf_header(const Metadata& metadata, std::span<GgufTensor> tensors,
                               Bytes alignment) {
  std::string out = "GGUF";
  put(out, kVersion);
  put(out, static_cast<std::uint64_t>(tensors.size()));
  put(out, static_cast<std::uint64_t>(metadata.values().size()));
  put_metadata(out, metadata);
  put_directory(out, tensors, alignment);
  out.resize(align_up(out.size(), alignment), '\0');
  for (GgufTensor& tensor : tensors) tensor.offset += out.size();
  return out;
}

Bytes gguf_file_size(std::string_view header, std::span<const GgufTensor> tensors,
                     Bytes alignment) {
  if (tensors.empty()) return header.size();
  return align_up(tensors.back().offset + tensors.back().size, alignment);
}

}  // namespace prima::model

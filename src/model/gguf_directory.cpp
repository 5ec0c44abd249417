#include <limits>
#include <unordered_set>

#include "model/gguf_parts.h"

namespace prima::model {
namespace {

tl::unexpected<Error> bad_tensor(std::string_view file_name, std::string_view tensor,
                                 std::string_view what) {
  return fail(ErrorCode::corrupt, fmt::format("{}: tensor {} {}", file_name, tensor, what),
              kDownloadAgain);
}

Status read_shape(GgufCursor& cursor, GgufTensor& tensor) {
  PRIMA_ASSIGN_OR_RETURN(const auto n_dimensions, cursor.read<std::uint32_t>(tensor.name));
  if (n_dimensions > tensor.shape.size()) {
    return bad_tensor(cursor.file_name(), tensor.name,
                      fmt::format("has {} dimensions; GGUF allows 4", n_dimensions));
  }
  Bytes elements = 1;
  for (std::uint32_t i = 0; i < n_dimensions; ++i) {
    PRIMA_ASSIGN_OR_RETURN(tensor.shape[i], cursor.read<std::int64_t>(tensor.name));
    if (tensor.shape[i] <= 0) {
      return bad_tensor(cursor.file_name(), tensor.name,
                        fmt::format("has a dimension of {}", tensor.shape[i]));
    }
    const auto product = checked_multiply(elements, static_cast<Bytes>(tensor.shape[i]));
    if (!product || *product > static_cast<Bytes>(std::numeric_limits<std::int64_t>::max())) {
      return bad_tensor(cursor.file_name(), tensor.name, "has more elements than 64 bits count");
    }
    elements = *product;
  }
  return {};
}

Status read_type_and_size(GgufCursor& cursor, GgufTensor& tensor) {
  PRIMA_ASSIGN_OR_RETURN(const auto number, cursor.read<std::uint32_t>(tensor.name));
  const auto unknown = [&](std::string_view why) {
    return fail(
        ErrorCode::unsupported,
        fmt::format("{}: tensor {} has type {}, {}", cursor.file_name(), tensor.name, number, why),
        "Use a file quantized to a current type, such as Q4_K_M");
  };
  if (number >= GGML_TYPE_COUNT) return unknown("which this build of ggml does not know");
  tensor.type = static_cast<ggml_type>(number);
  const std::int64_t block = ggml_blck_size(tensor.type);
  if (block == 0) return unknown("which ggml has removed");

  if (tensor.shape[0] % block != 0) {
    return bad_tensor(cursor.file_name(), tensor.name,
                      fmt::format("has rows of {} elements, no multiple of the {} in a block of {}",
                                  tensor.shape[0], block, ggml_type_name(tensor.type)));
  }
  // Fits: the number of elements was checked.
  const auto n_blocks = static_cast<Bytes>(tensor.shape[0] / block * tensor.shape[1] *
                                           tensor.shape[2] * tensor.shape[3]);
  const auto size = checked_multiply(n_blocks, ggml_type_size(tensor.type));
  if (!size)
    return bad_tensor(cursor.file_name(), tensor.name, "has more bytes than 64 bits count");
  tensor.size = *size;
  return {};
}

}  // namespace

Result<std::vector<GgufTensor>> parse_gguf_directory(GgufCursor& cursor, std::uint64_t n_tensors) {
  // The least an entry takes: length of the name, dimensions, type, offset.
  if (n_tensors > cursor.left_in_file() / 24) {
    return fail(ErrorCode::corrupt,
                fmt::format("{}: the header claims {} tensors, more than the file has room for",
                            cursor.file_name(), n_tensors),
                kDownloadAgain);
  }
  std::vector<GgufTensor> tensors;
  std::unordered_set<std::string> names;
  for (std::uint64_t i = 0; i < n_tensors; ++i) {
    GgufTensor tensor;
    PRIMA_ASSIGN_OR_RETURN(tensor.name,
                           cursor.read_string(fmt::format("the name of tensor {}", i)));
    if (tensor.name.empty() || tensor.name.size() >= GGML_MAX_NAME) {
      return fail(ErrorCode::corrupt,
                  fmt::format("{}: the name of tensor {} has {} characters; 1 to {} are allowed",
                              cursor.file_name(), i, tensor.name.size(), GGML_MAX_NAME - 1),
                  kDownloadAgain);
    }
    if (!names.insert(tensor.name).second) {
      return bad_tensor(cursor.file_name(), tensor.name, "appears twice");
    }
    PRIMA_RETURN_IF_ERROR(read_shape(cursor, tensor));
    PRIMA_RETURN_IF_ERROR(read_type_and_size(cursor, tensor));
    PRIMA_ASSIGN_OR_RETURN(tensor.offset, cursor.read<std::uint64_t>(tensor.name));
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

Status place_gguf_tensors(std::string_view file_name, Bytes file_size, Gguf& gguf) {
  Bytes end = 0;  // of the tensors so far, relative to the data section
  for (GgufTensor& tensor : gguf.tensors) {
    if (tensor.offset % gguf.alignment != 0) {
      return bad_tensor(file_name, tensor.name,
                        fmt::format("starts at offset {}, no multiple of the alignment of {}",
                                    tensor.offset, gguf.alignment));
    }
    if (tensor.offset < end) {
      return bad_tensor(file_name, tensor.name, "overlaps the tensor before it");
    }
    if (tensor.offset - end >= gguf.alignment) {
      return bad_tensor(file_name, tensor.name, "does not follow the tensor before it");
    }
    const auto start = checked_add(gguf.data_offset, tensor.offset);
    const auto stop = start ? checked_add(*start, tensor.size) : std::nullopt;
    if (!stop || *stop > file_size) {
      return bad_tensor(file_name, tensor.name,
                        fmt::format("ends past the end of the file, which has {}: the file is cut "
                                    "off",
                                    format_bytes(file_size)));
    }
    end = tensor.offset + tensor.size;
    tensor.offset = *start;
  }
  return {};
}

}  // namespace prima::model

#include "model/gguf.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <system_error>

#include "model/gguf_parts.h"

namespace prima::model {
namespace {

// Metadata and directory of the largest models take some ten MiB (a vocabulary of 256k tokens with
// merges); more than this is no model.
constexpr Bytes kLargestHeader = kGiB;

constexpr std::uint32_t kOldestVersion = 2;
constexpr std::uint32_t kNewestVersion = 3;

// What people hand over in place of a GGUF file, by how it begins.
struct Impostor {
  std::string_view beginning;
  const char* what;
  const char* remedy;
};

constexpr Impostor kImpostors[] = {
    {"version https://git-lfs", "is a Git LFS pointer, not the model itself",
     "Fetch the model with 'git lfs pull', or download the file itself"},
    {"<", "is a web page, not a model",
     "Use the link to the file itself (on Hugging Face: /resolve/ in place of /blob/)"},
    {"{", "is JSON text, not a model", "Give the .gguf file"},
    {"PK\x03\x04", "is a ZIP or PyTorch archive, not a GGUF file",
     "Convert it with llama.cpp's convert_hf_to_gguf.py"},
    {"tjgg", "is in GGJT, a format from before GGUF", "Download the model as GGUF"},
    {"lmgg", "is in GGML, a format from before GGUF", "Download the model as GGUF"},
    {"fmgg", "is in GGMF, a format from before GGUF", "Download the model as GGUF"},
};

Status check_magic(std::string_view file_name, std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with("GGUF")) return {};
  for (const Impostor& impostor : kImpostors) {
    if (!text.starts_with(impostor.beginning)) continue;
    return fail(ErrorCode::corrupt, fmt::format("{}: {}", file_name, impostor.what),
                impostor.remedy);
  }
  // safetensors: the size of a JSON header in 8 bytes, then the header.
  if (text.size() > 9 && text.substr(8).starts_with("{\"")) {
    return fail(ErrorCode::corrupt,
                fmt::format("{}: is in the safetensors format, not GGUF", file_name),
                "Convert it with llama.cpp's convert_hf_to_gguf.py");
  }
  return fail(ErrorCode::corrupt, fmt::format("{}: does not begin with 'GGUF'", file_name),
              "Give a model in GGUF format, or download the file again");
}

Status check_version(std::string_view file_name, std::uint32_t version) {
  if (version >= kOldestVersion && version <= kNewestVersion) return {};
  if ((version & 0xffff) == 0 && version != 0) {
    return fail(ErrorCode::unsupported,
                fmt::format("{}: was written for big-endian machines", file_name),
                "Download the little-endian file");
  }
  return fail(ErrorCode::unsupported,
              fmt::format("{}: is GGUF version {}; versions {} and {} are supported", file_name,
                          version, kOldestVersion, kNewestVersion),
              version < kOldestVersion ? "Download a newer conversion of the model"
                                       : "Update Prima, or download an older conversion");
}

Result<Bytes> read_alignment(std::string_view file_name, const Metadata& metadata) {
  constexpr std::string_view kKey = "general.alignment";
  if (metadata.find(kKey) == nullptr) return Bytes{32};
  const auto alignment = metadata.find_unsigned(kKey);
  const bool is_uint32 = metadata.type(kKey)->type == GgufType::uint32;
  if (!is_uint32 || !alignment || *alignment == 0 || (*alignment & (*alignment - 1)) != 0) {
    return fail(ErrorCode::corrupt,
                fmt::format("{}: metadata {} is not a power of two in a uint32", file_name, kKey),
                kDownloadAgain);
  }
  return *alignment;
}

Result<Bytes> size_of_regular_file(const std::filesystem::path& path) {
  const std::string name = path.string();
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) {
    return fail(ErrorCode::not_found, fmt::format("{}: there is no such file", name),
                "Check the path");
  }
  if (error) {
    return fail(ErrorCode::io, fmt::format("{}: {}", name, error.message()),
                "Check the path and its permissions");
  }
  if (std::filesystem::is_directory(status)) {
    return fail(ErrorCode::invalid_argument, fmt::format("{}: is a directory", name),
                "Give the .gguf file inside it");
  }
  if (!std::filesystem::is_regular_file(status)) {
    return fail(ErrorCode::invalid_argument, fmt::format("{}: is not a regular file", name),
                "Give a .gguf file on a disk");
  }
  const Bytes size = std::filesystem::file_size(path, error);
  if (error) return fail(ErrorCode::io, fmt::format("{}: {}", name, error.message()));
  if (size == 0) {
    return fail(ErrorCode::corrupt, fmt::format("{}: is empty", name), kDownloadAgain);
  }
  return size;
}

Result<std::ifstream> open_for_reading(const std::filesystem::path& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return fail(ErrorCode::io,
                fmt::format("{}: cannot be opened: {}", path.string(), std::strerror(errno)),
                "Check the file's permissions");
  }
  return file;
}

}  // namespace

Result<Gguf> parse_gguf(std::string_view file_name, std::span<const std::byte> bytes,
                        Bytes file_size) {
  bytes = bytes.first(std::min<Bytes>(bytes.size(), file_size));
  PRIMA_RETURN_IF_ERROR(check_magic(file_name, bytes));
  GgufCursor cursor(file_name, bytes, file_size);
  PRIMA_RETURN_IF_ERROR(cursor.read<std::uint32_t>("the header"));

  Gguf gguf;
  PRIMA_ASSIGN_OR_RETURN(gguf.version, cursor.read<std::uint32_t>("the header"));
  PRIMA_RETURN_IF_ERROR(check_version(file_name, gguf.version));
  PRIMA_ASSIGN_OR_RETURN(const auto n_tensors, cursor.read<std::uint64_t>("the header"));
  PRIMA_ASSIGN_OR_RETURN(const auto n_values, cursor.read<std::uint64_t>("the header"));
  PRIMA_ASSIGN_OR_RETURN(gguf.metadata, parse_gguf_metadata(cursor, n_values));
  PRIMA_ASSIGN_OR_RETURN(gguf.alignment, read_alignment(file_name, gguf.metadata));
  PRIMA_ASSIGN_OR_RETURN(gguf.tensors, parse_gguf_directory(cursor, n_tensors));
  gguf.data_offset = align_up(cursor.position(), gguf.alignment);
  PRIMA_RETURN_IF_ERROR(place_gguf_tensors(file_name, file_size, gguf));
  return gguf;
}

Result<Gguf> read_gguf(const std::filesystem::path& path) {
  const std::string name = path.string();
  PRIMA_ASSIGN_OR_RETURN(const Bytes file_size, size_of_regular_file(path));
  PRIMA_ASSIGN_OR_RETURN(auto file, open_for_reading(path));

  std::vector<std::byte> bytes;
  // Most headers fit the first read; each further one quadruples it.
  for (Bytes wanted = 16 * kMiB;; wanted *= 4) {
    const Bytes size = std::min({wanted, file_size, kLargestHeader});
    const Bytes had = bytes.size();
    bytes.resize(size);
    if (!file.read(reinterpret_cast<char*>(bytes.data() + had),
                   static_cast<std::streamsize>(size - had))) {
      return fail(ErrorCode::io, fmt::format("{}: reading failed: {}", name, std::strerror(errno)),
                  "Check the disk, or download the file again");
    }
    auto gguf = parse_gguf(name, bytes, file_size);
    if (gguf || gguf.error().code != ErrorCode::resource_exhausted) return gguf;
    if (size == kLargestHeader) {
      return fail(ErrorCode::unsupported,
                  fmt::format("{}: metadata and tensor directory take more than {}", name,
                              format_bytes(kLargestHeader)),
                  kDownloadAgain);
    }
  }
}

}  // namespace prima::model

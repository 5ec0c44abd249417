// The GGUF container: header, metadata and tensor directory of one file, parsed with every size
// checked before it is believed. Format: ggml's docs/gguf.md, versions 2 and 3, little endian.
//
// Value types; thread-compatible.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <ggml.h>

#include "base/result.h"
#include "base/units.h"

namespace prima::model {

// A metadata array of fixed-size elements or strings.
using MetadataArray =
    std::variant<std::vector<bool>, std::vector<std::int64_t>, std::vector<std::uint64_t>,
                 std::vector<double>, std::vector<std::string>>;

// All integer widths are widened to 64 bits, floats to double.
using MetadataValue =
    std::variant<bool, std::int64_t, std::uint64_t, double, std::string, MetadataArray>;

// The format's own types, by their numbers in the file.
enum class GgufType : std::uint32_t {
  uint8 = 0,
  int8 = 1,
  uint16 = 2,
  int16 = 3,
  uint32 = 4,
  int32 = 5,
  float32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  uint64 = 10,
  int64 = 11,
  float64 = 12,
};

const char* to_string(GgufType type);

// How a value stands in the file. llama.cpp insists on these for the keys it reads, and a copy of
// the metadata has to keep them.
struct MetadataType {
  GgufType type = GgufType::uint32;
  GgufType element = GgufType::uint32;  // of arrays

  friend bool operator==(const MetadataType& a, const MetadataType& b) {
    return a.type == b.type && (a.type != GgufType::array || a.element == b.element);
  }
};

class Metadata {
 public:
  // nullptr / nullopt if the key is absent or of another kind.
  const MetadataValue* find(std::string_view key) const;
  const std::string* find_string(std::string_view key) const;
  const std::vector<std::string>* find_strings(std::string_view key) const;
  std::optional<std::uint64_t> find_unsigned(std::string_view key) const;
  std::optional<double> find_number(std::string_view key) const;  // of any numeric type
  std::optional<MetadataType> type(std::string_view key) const;

  // Integers become uint32 or int32 where they fit, floats float32, unless `type` says otherwise.
  void set(std::string key, MetadataValue value);
  void set(std::string key, MetadataValue value, MetadataType type);
  void erase(std::string_view key);
  const std::map<std::string, MetadataValue, std::less<>>& values() const { return values_; }

 private:
  std::map<std::string, MetadataValue, std::less<>> values_;
  std::map<std::string, MetadataType, std::less<>> types_;
};

struct GgufTensor {
  std::string name;
  ggml_type type = GGML_TYPE_F32;
  std::array<std::int64_t, 4> shape{1, 1, 1, 1};
  Bytes offset = 0;  // from the start of the file
  Bytes size = 0;
};

struct Gguf {
  std::uint32_t version = 0;
  Bytes alignment = 32;
  Bytes data_offset = 0;  // where tensor data starts in the file
  Metadata metadata;
  std::vector<GgufTensor> tensors;
};

// `file_size`: of the whole file; `bytes`: its beginning, at least the header, metadata and
// directory. Errors name `file_name`. Fails with corrupt, unsupported, or, where `bytes` is only
// too short, resource_exhausted (read more and parse again). Tensors lie in directory order with
// nothing but padding between them, as llama.cpp demands too, so none overlap.
Result<Gguf> parse_gguf(std::string_view file_name, std::span<const std::byte> bytes,
                        Bytes file_size);

Result<Gguf> read_gguf(const std::filesystem::path& path);

}  // namespace prima::model

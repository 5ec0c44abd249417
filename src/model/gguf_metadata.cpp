#include <algorithm>
#include <limits>

#include "model/gguf_parts.h"

namespace prima::model {
namespace {

// Bytes of one element in the file; of strings, the least.
std::optional<Bytes> element_size(GgufType type) {
  switch (type) {
    case GgufType::uint8:
    case GgufType::int8:
    case GgufType::boolean: return 1;
    case GgufType::uint16:
    case GgufType::int16: return 2;
    case GgufType::uint32:
    case GgufType::int32:
    case GgufType::float32: return 4;
    case GgufType::uint64:
    case GgufType::int64:
    case GgufType::float64:
    case GgufType::string: return 8;
    case GgufType::array: break;
  }
  return std::nullopt;
}

Result<bool> read_bool(GgufCursor& cursor, std::string_view key) {
  PRIMA_ASSIGN_OR_RETURN(const auto value, cursor.read<std::uint8_t>(key));
  return value != 0;
}

template <typename Wide, typename Narrow>
Result<MetadataValue> read_scalar(GgufCursor& cursor, std::string_view key) {
  PRIMA_ASSIGN_OR_RETURN(const auto value, cursor.read<Narrow>(key));
  return MetadataValue(static_cast<Wide>(value));
}

// REQUIRES: count * sizeof(Narrow) bytes have been checked to lie in the file.
template <typename Wide, typename Narrow>
Result<MetadataValue> read_array(GgufCursor& cursor, std::string_view key, std::uint64_t count) {
  PRIMA_RETURN_IF_ERROR(cursor.need(count * sizeof(Narrow), key));
  std::vector<Wide> values;
  values.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    PRIMA_ASSIGN_OR_RETURN(const auto value, cursor.read<Narrow>(key));
    values.push_back(static_cast<Wide>(value));
  }
  return MetadataValue(MetadataArray(std::move(values)));
}

Result<MetadataValue> read_bools(GgufCursor& cursor, std::string_view key, std::uint64_t count) {
  std::vector<bool> values;
  values.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    PRIMA_ASSIGN_OR_RETURN(const bool value, read_bool(cursor, key));
    values.push_back(value);
  }
  return MetadataValue(MetadataArray(std::move(values)));
}

Result<MetadataValue> read_strings(GgufCursor& cursor, std::string_view key, std::uint64_t count) {
  // Each has a length of 8 bytes, so `count` fits the file; but the part at hand may be shorter,
  // and then nothing should be allocated for it.
  PRIMA_RETURN_IF_ERROR(cursor.need(count * 8, key));
  std::vector<std::string> values;
  values.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    PRIMA_ASSIGN_OR_RETURN(auto value, cursor.read_string(key));
    values.push_back(std::move(value));
  }
  return MetadataValue(MetadataArray(std::move(values)));
}

tl::unexpected<Error> bad_type(const GgufCursor& cursor, std::string_view key, std::uint32_t type) {
  return fail(ErrorCode::corrupt,
              fmt::format("{}: metadata {} has type {}, which GGUF does not define",
                          cursor.file_name(), key, type),
              kDownloadAgain);
}

Result<MetadataValue> read_value(GgufCursor& cursor, std::string_view key, GgufType type) {
  switch (type) {
    case GgufType::uint8: return read_scalar<std::uint64_t, std::uint8_t>(cursor, key);
    case GgufType::int8: return read_scalar<std::int64_t, std::int8_t>(cursor, key);
    case GgufType::uint16: return read_scalar<std::uint64_t, std::uint16_t>(cursor, key);
    case GgufType::int16: return read_scalar<std::int64_t, std::int16_t>(cursor, key);
    case GgufType::uint32: return read_scalar<std::uint64_t, std::uint32_t>(cursor, key);
    case GgufType::int32: return read_scalar<std::int64_t, std::int32_t>(cursor, key);
    case GgufType::float32: return read_scalar<double, float>(cursor, key);
    case GgufType::uint64: return read_scalar<std::uint64_t, std::uint64_t>(cursor, key);
    case GgufType::int64: return read_scalar<std::int64_t, std::int64_t>(cursor, key);
    case GgufType::float64: return read_scalar<double, double>(cursor, key);
    case GgufType::boolean: {
      PRIMA_ASSIGN_OR_RETURN(const bool value, read_bool(cursor, key));
      return MetadataValue(value);
    }
    case GgufType::string: {
      PRIMA_ASSIGN_OR_RETURN(auto value, cursor.read_string(key));
      return MetadataValue(std::move(value));
    }
    case GgufType::array: break;
  }
  return bad_type(cursor, key, static_cast<std::uint32_t>(type));
}

Result<MetadataValue> read_elements(GgufCursor& cursor, std::string_view key, GgufType type,
                                    std::uint64_t count) {
  switch (type) {
    case GgufType::uint8: return read_array<std::uint64_t, std::uint8_t>(cursor, key, count);
    case GgufType::int8: return read_array<std::int64_t, std::int8_t>(cursor, key, count);
    case GgufType::uint16: return read_array<std::uint64_t, std::uint16_t>(cursor, key, count);
    case GgufType::int16: return read_array<std::int64_t, std::int16_t>(cursor, key, count);
    case GgufType::uint32: return read_array<std::uint64_t, std::uint32_t>(cursor, key, count);
    case GgufType::int32: return read_array<std::int64_t, std::int32_t>(cursor, key, count);
    case GgufType::float32: return read_array<double, float>(cursor, key, count);
    case GgufType::uint64: return read_array<std::uint64_t, std::uint64_t>(cursor, key, count);
    case GgufType::int64: return read_array<std::int64_t, std::int64_t>(cursor, key, count);
    case GgufType::float64: return read_array<double, double>(cursor, key, count);
    case GgufType::boolean: return read_bools(cursor, key, count);
    case GgufType::string: return read_strings(cursor, key, count);
    case GgufType::array: break;
  }
  return bad_type(cursor, key, static_cast<std::uint32_t>(type));
}

Result<GgufType> read_type(GgufCursor& cursor, std::string_view key) {
  PRIMA_ASSIGN_OR_RETURN(const auto number, cursor.read<std::uint32_t>(key));
  if (number > static_cast<std::uint32_t>(GgufType::float64)) return bad_type(cursor, key, number);
  return static_cast<GgufType>(number);
}

}  // namespace

Result<Metadata> parse_gguf_metadata(GgufCursor& cursor, std::uint64_t n_values) {
  // The least a value takes: length and one byte of key, type, one byte of value.
  if (n_values > cursor.left_in_file() / 14) {
    return fail(ErrorCode::corrupt,
                fmt::format("{}: the header claims {} metadata values, more than the file has room "
                            "for",
                            cursor.file_name(), n_values),
                kDownloadAgain);
  }
  Metadata metadata;
  for (std::uint64_t i = 0; i < n_values; ++i) {
    PRIMA_ASSIGN_OR_RETURN(auto key, cursor.read_string(fmt::format("metadata key {}", i)));
    if (key.empty()) {
      return fail(ErrorCode::corrupt,
                  fmt::format("{}: metadata key {} is empty", cursor.file_name(), i),
                  kDownloadAgain);
    }
    if (metadata.find(key) != nullptr) {
      return fail(ErrorCode::corrupt,
                  fmt::format("{}: metadata {} appears twice", cursor.file_name(), key),
                  "Convert the model again");
    }
    MetadataType type;
    PRIMA_ASSIGN_OR_RETURN(type.type, read_type(cursor, key));
    if (type.type != GgufType::array) {
      PRIMA_ASSIGN_OR_RETURN(auto value, read_value(cursor, key, type.type));
      metadata.set(std::move(key), std::move(value), type);
      continue;
    }
    PRIMA_ASSIGN_OR_RETURN(type.element, read_type(cursor, key));
    PRIMA_ASSIGN_OR_RETURN(const auto count, cursor.read<std::uint64_t>(key));
    const auto size = element_size(type.element);
    if (!size) return bad_type(cursor, key, static_cast<std::uint32_t>(type.element));
    if (count > cursor.left_in_file() / *size) {
      return fail(
          ErrorCode::corrupt,
          fmt::format("{}: metadata {} claims {} elements, more than the file has bytes for",
                      cursor.file_name(), key, count),
          kDownloadAgain);
    }
    PRIMA_ASSIGN_OR_RETURN(auto value, read_elements(cursor, key, type.element, count));
    metadata.set(std::move(key), std::move(value), type);
  }
  return metadata;
}

const char* to_string(GgufType type) {
  switch (type) {
    case GgufType::uint8: return "uint8";
    case GgufType::int8: return "int8";
    case GgufType::uint16: return "uint16";
    case GgufType::int16: return "int16";
    case GgufType::uint32: return "uint32";
    case GgufType::int32: return "int32";
    case GgufType::float32: return "float32";
    case GgufType::boolean: return "bool";
    case GgufType::string: return "string";
    case GgufType::array: return "array";
    case GgufType::uint64: return "uint64";
    case GgufType::int64: return "int64";
    case GgufType::float64: return "float64";
  }
  return "unknown";
}

const MetadataValue* Metadata::find(std::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : &found->second;
}

const std::string* Metadata::find_string(std::string_view key) const {
  const MetadataValue* value = find(key);
  return value == nullptr ? nullptr : std::get_if<std::string>(value);
}

const std::vector<std::string>* Metadata::find_strings(std::string_view key) const {
  const MetadataValue* value = find(key);
  const auto* array = value == nullptr ? nullptr : std::get_if<MetadataArray>(value);
  return array == nullptr ? nullptr : std::get_if<std::vector<std::string>>(array);
}

std::optional<std::uint64_t> Metadata::find_unsigned(std::string_view key) const {
  const MetadataValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* number = std::get_if<std::uint64_t>(value)) return *number;
  if (const auto* number = std::get_if<std::int64_t>(value); number != nullptr && *number >= 0) {
    return static_cast<std::uint64_t>(*number);
  }
  return std::nullopt;
}

std::optional<double> Metadata::find_number(std::string_view key) const {
  const MetadataValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* number = std::get_if<double>(value)) return *number;
  if (const auto* number = std::get_if<std::uint64_t>(value)) return static_cast<double>(*number);
  if (const auto* number = std::get_if<std::int64_t>(value)) return static_cast<double>(*number);
  return std::nullopt;
}

std::optional<MetadataType> Metadata::type(std::string_view key) const {
  const auto found = types_.find(key);
  if (found == types_.end()) return std::nullopt;
  return found->second;
}

namespace {

GgufType narrowest(std::uint64_t largest) {
  return largest <= std::numeric_limits<std::uint32_t>::max() ? GgufType::uint32 : GgufType::uint64;
}

GgufType narrowest(std::int64_t least, std::int64_t largest) {
  return least >= std::numeric_limits<std::int32_t>::min() &&
                 largest <= std::numeric_limits<std::int32_t>::max()
             ? GgufType::int32
             : GgufType::int64;
}

struct DefaultType {
  GgufType operator()(bool) const { return GgufType::boolean; }
  GgufType operator()(std::uint64_t value) const { return narrowest(value); }
  GgufType operator()(std::int64_t value) const { return narrowest(value, value); }
  GgufType operator()(double) const { return GgufType::float32; }
  GgufType operator()(const std::string&) const { return GgufType::string; }
  GgufType operator()(const std::vector<bool>&) const { return GgufType::boolean; }
  GgufType operator()(const std::vector<std::uint64_t>& values) const {
    std::uint64_t largest = 0;
    for (const auto value : values) largest = std::max(largest, value);
    return narrowest(largest);
  }
  GgufType operator()(const std::vector<std::int64_t>& values) const {
    std::int64_t least = 0;
    std::int64_t largest = 0;
    for (const auto value : values) {
      least = std::min(least, value);
      largest = std::max(largest, value);
    }
    return narrowest(least, largest);
  }
  GgufType operator()(const std::vector<double>&) const { return GgufType::float32; }
  GgufType operator()(const std::vector<std::string>&) const { return GgufType::string; }
  GgufType operator()(const MetadataArray& array) const { return std::visit(*this, array); }
};

}  // namespace

void Metadata::set(std::string key, MetadataValue value) {
  MetadataType type;
  type.type = std::visit(DefaultType{}, value);
  if (std::holds_alternative<MetadataArray>(value)) {
    type.element = type.type;
    type.type = GgufType::array;
  }
  set(std::move(key), std::move(value), type);
}

void Metadata::set(std::string key, MetadataValue value, MetadataType type) {
  types_[key] = type;
  values_[std::move(key)] = std::move(value);
}

void Metadata::erase(std::string_view key) {
  if (const auto found = values_.find(key); found != values_.end()) values_.erase(found);
  if (const auto found = types_.find(key); found != types_.end()) types_.erase(found);
}

}  // namespace prima::model

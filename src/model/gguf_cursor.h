// A cursor over the beginning of a GGUF file that checks every size before it moves. Internal to
// the parser.
//
// Invariant: position() <= the number of bytes given <= the file's size.
#pragma once

#include <bit>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <spdlog/fmt/fmt.h>

#include "base/result.h"
#include "base/units.h"

namespace prima::model {

inline constexpr const char* kDownloadAgain = "Download the file again";

class GgufCursor {
 public:
  GgufCursor(std::string_view file_name, std::span<const std::byte> bytes, Bytes file_size)
      : file_name_(file_name), bytes_(bytes), file_size_(file_size) {}

  std::string_view file_name() const { return file_name_; }
  Bytes position() const { return position_; }
  Bytes left_in_file() const { return file_size_ - position_; }

  // Fails unless `size` more bytes are at hand; `thing` is what they hold.
  Status need(Bytes size, std::string_view thing) const {
    if (size > left_in_file()) {
      return fail(ErrorCode::corrupt,
                  fmt::format("{}: the file ends inside {}: it is cut off", file_name_, thing),
                  kDownloadAgain);
    }
    if (size > bytes_.size() - position_) {
      return fail(ErrorCode::resource_exhausted,
                  fmt::format("{}: more of the file is needed to read {}", file_name_, thing));
    }
    return {};
  }

  template <typename T>
  Result<T> read(std::string_view thing) {
    static_assert(std::endian::native == std::endian::little, "GGUF is read as it lies in memory");
    PRIMA_RETURN_IF_ERROR(need(sizeof(T), thing));
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof value);
    position_ += sizeof value;
    return value;
  }

  Result<std::string> read_string(std::string_view thing) {
    PRIMA_ASSIGN_OR_RETURN(const auto size, read<std::uint64_t>(thing));
    PRIMA_RETURN_IF_ERROR(need(size, thing));
    std::string text(reinterpret_cast<const char*>(bytes_.data() + position_), size);
    position_ += size;
    return text;
  }

 private:
  std::string_view file_name_;
  std::span<const std::byte> bytes_;
  Bytes file_size_;
  Bytes position_ = 0;
};

}  // namespace prima::model

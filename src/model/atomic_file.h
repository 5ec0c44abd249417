// A file that is there whole or not at all: written under a temporary name beside its own, synced,
// then renamed. Without commit() nothing stays behind.
//
// Thread-compatible.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

#include "base/result.h"
#include "base/units.h"

namespace prima::model {

class AtomicFile {
 public:
  // Fails with resource_exhausted if the disk has no room for `size` bytes.
  static Result<AtomicFile> create(const std::filesystem::path& path, Bytes size);

  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  Status write(std::span<const std::byte> bytes);
  Bytes written() const { return written_; }

  // Puts what was written on disk and gives its page cache back.
  Status flush();

  // Puts the file in its place, over one that is there.
  Status commit();

 private:
  AtomicFile() = default;

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  Bytes written_ = 0;
};

}  // namespace prima::model

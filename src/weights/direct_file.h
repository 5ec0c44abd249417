// A file opened for large reads that bypass the page cache, where its file system allows that.
//
// Streamed weights are read in a cycle longer than memory, which a page cache can only lose at; so
// the file is opened for direct reads. Not every file system has them (tmpfs, some network and user
// space ones), and each has its own alignment, so both are asked from the file system: its own
// answer where it gives one (statx on Linux), else by trying a read.
//
// Movable value; const members are thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>

#include "base/result.h"
#include "base/units.h"

namespace prima::weights {

class DirectFile {
 public:
  enum class Mode {
    direct_if_possible,  // else buffered, dropping what was read from the page cache again
    buffered,            // for file systems that refuse direct reads, and for comparisons
  };

  static Result<DirectFile> open(const std::filesystem::path& path,
                                 Mode mode = Mode::direct_if_possible);
  ~DirectFile();
  DirectFile(DirectFile&& other) noexcept;
  DirectFile& operator=(DirectFile&& other) noexcept;
  DirectFile(const DirectFile&) = delete;
  DirectFile& operator=(const DirectFile&) = delete;

  // A file descriptor, or a HANDLE on Windows.
  std::intptr_t native() const { return native_; }
  const std::filesystem::path& path() const { return path_; }
  Bytes size() const { return size_; }           // when it was opened
  bool is_direct() const { return is_direct_; }  // reads bypass the page cache

  // Of file offsets, sizes and buffers: a power of two.
  Bytes alignment() const { return alignment_; }

  // Fails with unavailable if the open file has another size or modification time than when it was
  // opened: its bytes can no longer be trusted to be the model's. (A file replaced by renaming
  // another over it is no concern: the open one stays.)
  Status check_unchanged() const;

  // After a buffered read of this range: gives its page cache back. Nothing to do for direct reads.
  void forget_cached(Bytes offset, Bytes size) const;

 private:
  DirectFile() = default;

  std::intptr_t native_ = -1;
  std::filesystem::path path_;
  Bytes size_ = 0;
  std::int64_t modified_nanoseconds_ = 0;
  Bytes alignment_ = 4096;
  bool is_direct_ = false;
};

}  // namespace prima::weights

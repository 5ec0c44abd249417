// A file mapped for reading. Platform files: mapped_file_posix.cpp.
//
// Thread-safe.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>

#include "base/byte_range.h"
#include "base/result.h"

namespace prima::weights {

class MappedFile {
 public:
  static Result<std::unique_ptr<MappedFile>> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::byte* data() const { return data_; }  // pages are read-only
  Bytes size() const { return size_; }

  // Brings the range's pages into memory by large reads, not by faults, and maps them.
  Status fetch(ByteRange range) const;

  // The range grown to whole huge pages, as far as `within` reaches.
  ByteRange grown_to_huge_pages(ByteRange range, ByteRange within) const;

  // Gives back what hinders the range's huge pages: small ones that are in memory already, a few
  // since somebody read here and there, or all since the file was just written or copied. All only
  // where what is read instead comes as huge ones, which is tried with the first.
  void make_way_for_huge_pages(ByteRange range) const;

  // What the range has in memory is to stay there rather than what other programs read often once:
  // the system takes pages that were brought in just now before those.
  void keep(ByteRange range) const;

  // Of the pages that the range touches: what is not in memory now. 0 where the system does not say
  // (on Linux to a process that may not write the file and does not own it).
  Bytes bytes_missing(ByteRange range) const;

  // Of the pages that the range touches.
  Bytes bytes_in_memory(ByteRange range) const;

  // Whether the system brings pages of the range into memory by huge pages: tried with one of them.
  // nullopt where none lies wholly in the range, or others hold it in memory.
  std::optional<bool> brings_huge_pages(ByteRange range) const;

  // Gives the pages that lie wholly in the range back to the system, as far as others let go too.
  void drop(ByteRange range) const;

  // The same with the pages at its ends that others may lie in too.
  void drop_around(ByteRange range) const;

  // Fails with unavailable if the file has another size or modification time than when it was
  // opened: its bytes can no longer be trusted to be the model's.
  Status check_unchanged() const;

  // From now on a fault in the range reads the one page that it is about, and nothing around it.
  // Not for ranges that are fetched: those would be read page by page too.
  void expect_random_access(ByteRange range) const;

  // Copies the range by large reads, past the mapping.
  Status read(ByteRange range, std::byte* out) const;

 private:
  MappedFile() = default;

  std::filesystem::path path_;
  std::byte* data_ = nullptr;
  Bytes size_ = 0;
  std::int64_t modified_nanoseconds_ = 0;
  int descriptor_ = -1;
  mutable std::atomic<bool> small_pages_stay_ = false;
  mutable std::atomic<bool> huge_pages_come_ = false;
};

}  // namespace prima::weights

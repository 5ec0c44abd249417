// What differs between POSIX systems in reading and mapping files: one implementation each in
// file_platform_linux.cpp and file_platform_macos.cpp, chosen by the build.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>

#include <sys/stat.h>

#include "base/units.h"

namespace prima::weights::platform {

struct DirectOpen {
  int descriptor = -1;
  Bytes alignment = 4096;
};

// nullopt if the file cannot be opened, or its file system refuses direct reads.
std::optional<DirectOpen> open_direct(const std::filesystem::path& path);

std::int64_t modified_nanoseconds(const struct stat& status);

void forget_cached(int descriptor, Bytes offset, Bytes size);

// Whole pages of a mapped file. Brings them into memory and maps them, by reads as large as the
// system makes them, all queued before the first is waited for: without a copy and hardly any
// processor time. Errno, or 0; ENOSYS where the system has no such call.
int populate(std::byte* pages, Bytes size);

// Of a page that one entry of the processor's address tables can stand for; 0 where files have
// none.
Bytes huge_page_size();

// Has the system keep whole pages of a mapped file that are in memory as it keeps those of files
// that programs read often, and heed from now on that they are used. Nothing is read from disk.
void mark_often_used(std::byte* pages, Bytes size);

// Whether the system brings a mapped file's pages into memory by huge pages: tried with one that
// lies wholly within these pages. nullopt where none does, or it is in memory already. It and the
// advice given about it stay.
std::optional<bool> brings_huge_pages(std::byte* pages, Bytes size);

// Whether a mapped file's pages, as many as make a huge one and all in memory, are one. They are
// mapped anew.
bool is_huge_page(std::byte* pages);

// How many pages of a mapping are in memory; 0 where the system does not say.
Bytes pages_in_memory(std::byte* pages, Bytes size);

}  // namespace prima::weights::platform

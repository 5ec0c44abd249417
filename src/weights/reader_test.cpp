// Reads of real files through every implementation, and faults injected below the thread pool.
#include "weights/reader.h"

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <random>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "weights/in_place_reader.h"
#include "weights/reader_backends.h"

namespace prima::weights {
namespace {

using std::chrono::seconds;

struct AlignedBuffer {
  explicit AlignedBuffer(std::size_t size)
      : memory(static_cast<std::byte*>(std::aligned_alloc(65536, align_up(size, 65536)))) {
    std::memset(memory.get(), 0xee, size);
  }
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<std::byte, Free> memory;
};

class TemporaryFile {
 public:
  explicit TemporaryFile(std::size_t size) : bytes(size, '\0') {
    std::string name = (std::filesystem::temp_directory_path() / "prima-reader-XXXXXX").string();
    ::close(::mkstemp(name.data()));
    path = name;
    std::mt19937_64 random(size);
    for (char& byte : bytes) byte = static_cast<char>(random());
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(size));
  }
  // Pages that were not written yet cannot be dropped.
  void write_back() const {
    const int descriptor = ::open(path.c_str(), O_RDONLY);
    EXPECT_EQ(::fsync(descriptor), 0);
    ::close(descriptor);
  }
  ~TemporaryFile() { std::filesystem::remove(path); }
  std::filesystem::path path;
  std::string bytes;
};

std::vector<ReadCompletion> wait_for(Reader& reader, std::size_t count) {
  std::vector<ReadCompletion> completions;
  for (int i = 0; i < 60 && completions.size() < count; ++i) reader.wait(seconds(1), completions);
  return completions;
}

struct Variant {
  ReaderKind kind;
  bool direct;
};

class EveryReader : public testing::TestWithParam<Variant> {
 protected:
  std::unique_ptr<Reader> open(const TemporaryFile& file, std::size_t depth = 4) {
    auto reader = open_reader(std::array{file.path}, {GetParam().kind, GetParam().direct, depth});
    if (!reader && reader.error().code == ErrorCode::unsupported) return nullptr;
    EXPECT_TRUE(reader) << reader.error().message();
    return reader ? std::move(*reader) : nullptr;
  }
};

TEST_P(EveryReader, ReadsAWholeFileOutOfOrder) {
  TemporaryFile file(3 * kMiB + 777);  // the end is not aligned
  auto reader = open(file);
  if (!reader) GTEST_SKIP() << "refused by this system";
  const Bytes chunk = 256 * kKiB;
  AlignedBuffer buffer(4 * kMiB);
  std::vector<ReadRequest> requests;
  for (Bytes offset = 0; offset < file.bytes.size(); offset += chunk) {
    const Bytes size = std::min(chunk, align_up(file.bytes.size() - offset, reader->alignment()));
    requests.push_back({0, offset, size, buffer.memory.get() + offset, offset});
  }
  std::reverse(requests.begin(), requests.end());
  std::size_t next = 0;
  std::size_t in_flight = 0;
  std::vector<std::uint64_t> tags;
  while (tags.size() < requests.size()) {
    while (in_flight < reader->queue_depth() && next < requests.size()) {
      reader->submit(requests[next++]);
      ++in_flight;
    }
    std::vector<ReadCompletion> completions;
    reader->wait(seconds(30), completions);
    ASSERT_FALSE(completions.empty());
    for (const auto& completion : completions) {
      ASSERT_TRUE(completion.status) << completion.status.error().message();
      tags.push_back(completion.tag);
      --in_flight;
    }
  }
  EXPECT_EQ(std::memcmp(buffer.memory.get(), file.bytes.data(), file.bytes.size()), 0);
  std::sort(tags.begin(), tags.end());
  EXPECT_EQ(std::unique(tags.begin(), tags.end()), tags.end());
}

TEST_P(EveryReader, SaysThatAFileBecameShorter) {
  TemporaryFile file(kMiB);
  auto reader = open(file);
  if (!reader) GTEST_SKIP() << "refused by this system";
  EXPECT_TRUE(reader->check_unchanged());
  std::filesystem::resize_file(file.path, kMiB / 2 + 100);
  AlignedBuffer buffer(kMiB);
  reader->submit({0, 0, kMiB, buffer.memory.get(), 5});
  const auto completions = wait_for(*reader, 1);
  ASSERT_EQ(completions.size(), 1u);
  EXPECT_EQ(completions[0].tag, 5u);
  ASSERT_FALSE(completions[0].status);
  EXPECT_EQ(completions[0].status.error().code, ErrorCode::unavailable);
  ASSERT_FALSE(reader->check_unchanged());
  EXPECT_THAT(reader->check_unchanged().error().what, testing::HasSubstr(file.path.string()));
}

TEST_P(EveryReader, WaitReturnsWhenNothingIsInFlight) {
  TemporaryFile file(4096);
  auto reader = open(file);
  if (!reader) GTEST_SKIP() << "refused by this system";
  std::vector<ReadCompletion> completions;
  reader->wait(std::chrono::milliseconds(1), completions);
  EXPECT_TRUE(completions.empty());
}

INSTANTIATE_TEST_SUITE_P(Readers, EveryReader,
                         testing::Values(Variant{ReaderKind::io_uring, true},
                                         Variant{ReaderKind::io_uring, false},
                                         Variant{ReaderKind::threads, true},
                                         Variant{ReaderKind::threads, false},
                                         Variant{ReaderKind::automatic, true}));

// Through a mapping, what is asked for is in memory afterwards, and the buffer is left alone.
TEST(InPlaceReader, BringsBytesIntoMemoryWhereTheyAreMapped) {
  TemporaryFile file(9 * kMiB + 777);
  file.write_back();
  const std::shared_ptr<const MappedFile> mapped = MappedFile::open(file.path).value();
  auto reader = open_in_place_reader({mapped}, 3);
  ASSERT_EQ(reader->queue_depth(), 3u);
  mapped->drop({0, mapped->size()});
  const ByteRange ranges[] = {
      {kMiB / 2, 3 * kMiB / 2}, {4 * kMiB, 2 * kMiB}, {9 * kMiB, align_up(777, 4096)}};
  for (const ByteRange& range : ranges) {
    reader->submit({0, range.offset, range.size, nullptr, range.offset});
  }
  const auto completions = wait_for(*reader, std::size(ranges));
  ASSERT_EQ(completions.size(), std::size(ranges));
  for (const ReadCompletion& completion : completions) {
    EXPECT_TRUE(completion.status) << completion.status.error().message();
  }
  for (const ByteRange& range : ranges) {
    EXPECT_EQ(mapped->bytes_missing(range), 0u);
    const Bytes size = std::min(range.size, mapped->size() - range.offset);
    EXPECT_EQ(std::memcmp(mapped->data() + range.offset, file.bytes.data() + range.offset, size),
              0);
  }
}

TEST(InPlaceReader, SaysThatAFileBecameShorter) {
  TemporaryFile file(9 * kMiB);
  const std::shared_ptr<const MappedFile> mapped = MappedFile::open(file.path).value();
  auto reader = open_in_place_reader({mapped}, 1);
  std::filesystem::resize_file(file.path, 4096);
  reader->submit({0, 4 * kMiB, kMiB, nullptr, 1});
  const auto failed = wait_for(*reader, 1);
  ASSERT_EQ(failed.size(), 1u);
  ASSERT_FALSE(failed[0].status);
  EXPECT_EQ(failed[0].status.error().code, ErrorCode::unavailable);
  EXPECT_EQ(reader->check_unchanged().error().code, ErrorCode::unavailable);
}

// Whether it does is a matter of the system; trying leaves nothing behind.
TEST(MappedFile, TriesHugePagesWhereOneLiesWithin) {
  TemporaryFile file(8 * kMiB);
  file.write_back();
  const auto mapped = MappedFile::open(file.path).value();
  mapped->drop({0, mapped->size()});
  if (mapped->bytes_in_memory({0, mapped->size()}) > 0) GTEST_SKIP() << "a file system in memory";
  if (mapped->brings_huge_pages({0, mapped->size()}) == true) {
    EXPECT_EQ(mapped->brings_huge_pages({4096, kMiB}), std::nullopt);
  }
  EXPECT_EQ(mapped->bytes_in_memory({0, mapped->size()}), 0u);
}

TEST(Reader, NamesAFileThatIsNotThere) {
  auto reader = open_reader(std::array{std::filesystem::path("/nowhere/model.gguf")});
  ASSERT_FALSE(reader);
  EXPECT_EQ(reader.error().code, ErrorCode::not_found);
  EXPECT_THAT(reader.error().what, testing::HasSubstr("/nowhere/model.gguf"));
}

TEST(DirectFile, IsBufferedWhereTheFileSystemRefuses) {
  // procfs refuses O_DIRECT; its files are "regular" all the same.
  auto file = DirectFile::open("/proc/self/status");
  ASSERT_TRUE(file) << file.error().message();
  EXPECT_FALSE(file->is_direct());
}

class FaultyPread : public testing::Test {
 protected:
  std::unique_ptr<Reader> open(ReadAt read_at) {
    std::vector<DirectFile> files;
    files.push_back(std::move(*DirectFile::open(file_.path)));
    return std::move(*open_pread_reader(std::move(files), 1, std::move(read_at)));
  }
  Status read_all(Reader& reader) {
    reader.submit({0, 0, kMiB, buffer_.memory.get(), 1});
    auto completions = wait_for(reader, 1);
    if (completions.size() != 1) return fail(ErrorCode::internal, "no completion");
    return completions[0].status;
  }
  TemporaryFile file_{kMiB};
  AlignedBuffer buffer_{kMiB};
};

TEST_F(FaultyPread, ContinuesShortReadsFromAnAlignedPlace) {
  std::atomic<int> calls = 0;
  auto reader = open([&](int descriptor, void* buffer, std::size_t size, off_t offset) {
    ++calls;
    EXPECT_EQ(offset % 4096, 0);
    const ssize_t count = ::pread(descriptor, buffer, size, offset);
    return std::min<ssize_t>(count, 100'000);  // as if the rest had not been read
  });
  ASSERT_TRUE(read_all(*reader));
  EXPECT_GT(calls, 10);
  EXPECT_EQ(std::memcmp(buffer_.memory.get(), file_.bytes.data(), kMiB), 0);
}

TEST_F(FaultyPread, ReportsEioWithTheFileAndThePlace) {
  auto reader = open([](int, void*, std::size_t, off_t) -> ssize_t {
    errno = EIO;
    return -1;
  });
  const Status status = read_all(*reader);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::io);
  EXPECT_THAT(status.error().what, testing::HasSubstr(file_.path.string()));
  EXPECT_THAT(status.error().what, testing::HasSubstr("Input/output error"));
}

TEST_F(FaultyPread, GivesUpOnReadsThatMakeNoProgress) {
  auto reader = open([](int, void*, std::size_t, off_t) -> ssize_t { return 100; });
  const Status status = read_all(*reader);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::unavailable);
}

}  // namespace
}  // namespace prima::weights

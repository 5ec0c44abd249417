#include "model/gguf.h"

#include <cstring>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/testing/temporary_folder.h"
#include "model/testing/tiny_gguf.h"

namespace prima::model {
namespace {

using testing::HasSubstr;

// Where the header's fields stand.
constexpr std::size_t kVersionAt = 4;
constexpr std::size_t kTensorCountAt = 8;
constexpr std::size_t kValueCountAt = 16;
constexpr std::size_t kFirstValueAt = 24;

template <typename T>
void patch(std::string& bytes, std::size_t at, T value) {
  ASSERT_LE(at + sizeof value, bytes.size());
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

// After the name of the tensor or key `name`.
std::size_t after(const std::string& bytes, const std::string& name) {
  const std::size_t at = bytes.find(name);
  EXPECT_NE(at, std::string::npos) << name;
  return at + name.size();
}

void expect_error(const std::string& bytes, ErrorCode code, const std::string& what) {
  const auto gguf = parse(bytes);
  ASSERT_FALSE(gguf) << "expected: " << what;
  EXPECT_EQ(gguf.error().code, code) << gguf.error().message();
  EXPECT_THAT(gguf.error().what, HasSubstr("tiny.gguf"));
  EXPECT_THAT(gguf.error().what, HasSubstr(what));
  EXPECT_FALSE(gguf.error().remedy.empty()) << gguf.error().what;
}

void expect_corrupt(const std::string& bytes, const std::string& what) {
  expect_error(bytes, ErrorCode::corrupt, what);
}

TEST(Gguf, ReadsWhatWasWritten) {
  Metadata metadata;
  metadata.set("general.architecture", std::string("llama"));
  metadata.set("a.bool", true);
  metadata.set("a.uint8", std::uint64_t{200}, {GgufType::uint8, {}});
  metadata.set("a.int8", std::int64_t{-3}, {GgufType::int8, {}});
  metadata.set("a.uint16", std::uint64_t{60000}, {GgufType::uint16, {}});
  metadata.set("a.int16", std::int64_t{-30000}, {GgufType::int16, {}});
  metadata.set("a.uint32", std::uint64_t{4000000000});
  metadata.set("a.int32", std::int64_t{-2000000000});
  metadata.set("a.uint64", std::uint64_t{1} << 60);
  metadata.set("a.int64", -(std::int64_t{1} << 60));
  metadata.set("a.float32", 0.5);
  metadata.set("a.float64", 0.1, {GgufType::float64, {}});
  metadata.set("an.array", MetadataArray(std::vector<std::int64_t>{1, -2, 3}));
  metadata.set("an.empty.array", MetadataArray(std::vector<std::string>{}));
  metadata.set("some.strings", MetadataArray(std::vector<std::string>{"a", "", "c d"}));
  metadata.set("some.bools", MetadataArray(std::vector<bool>{true, false, true}));
  std::vector<GgufTensor> tensors(3);
  tensors[0] = {.name = "one", .type = GGML_TYPE_F32, .shape = {5, 1, 1, 1}};
  tensors[1] = {.name = "two", .type = GGML_TYPE_Q4_K, .shape = {512, 3, 1, 1}};
  tensors[2] = {.name = "three", .type = GGML_TYPE_F16, .shape = {7, 2, 3, 1}};

  const auto gguf = parse(gguf_bytes(metadata, tensors));
  ASSERT_TRUE(gguf) << gguf.error().message();
  EXPECT_EQ(gguf->version, 3u);
  EXPECT_EQ(gguf->alignment, 32u);
  EXPECT_EQ(gguf->metadata.values(), metadata.values());
  for (const auto& [key, value] : metadata.values()) {
    EXPECT_EQ(gguf->metadata.type(key), metadata.type(key)) << key;
  }
  ASSERT_EQ(gguf->tensors.size(), 3u);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(gguf->tensors[i].name, tensors[i].name);
    EXPECT_EQ(gguf->tensors[i].type, tensors[i].type);
    EXPECT_EQ(gguf->tensors[i].shape, tensors[i].shape);
  }
  EXPECT_EQ(gguf->tensors[0].offset, gguf->data_offset);
  EXPECT_EQ(gguf->tensors[0].size, 20u);
  EXPECT_EQ(gguf->tensors[1].offset, gguf->data_offset + 32);
  EXPECT_EQ(gguf->tensors[1].size, 144u * 2 * 3);
  EXPECT_EQ(gguf->tensors[2].size, 84u);
}

TEST(Gguf, ReadsVersionTwoAndOtherAlignments) {
  Metadata metadata = tiny_metadata();
  metadata.set("general.alignment", std::uint64_t{256});
  std::string bytes = gguf_bytes(metadata, tiny_tensors(metadata), 256);
  patch(bytes, kVersionAt, std::uint32_t{2});
  const auto gguf = parse(bytes);
  ASSERT_TRUE(gguf) << gguf.error().message();
  EXPECT_EQ(gguf->version, 2u);
  EXPECT_EQ(gguf->alignment, 256u);
  for (const GgufTensor& tensor : gguf->tensors) EXPECT_EQ(tensor.offset % 256, 0u);
}

TEST(Gguf, NamesWhatIsNoGguf) {
  expect_corrupt("<!DOCTYPE html><html>Not found</html>", "web page");
  expect_corrupt("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n",
                 "Git LFS pointer");
  expect_corrupt("{\"error\":\"Entry not found\"}", "JSON");
  expect_corrupt("PK\x03\x04 and more", "PyTorch");
  expect_corrupt("tjgg and more", "GGJT");
  expect_corrupt(std::string("\x10\x00\x00\x00\x00\x00\x00\x00", 8) + "{\"__metadata__\":{}}",
                 "safetensors");
  expect_corrupt("something else", "GGUF");
  expect_corrupt("GGU", "GGUF");
}

TEST(Gguf, RefusesOtherVersionsAndByteOrders) {
  std::string bytes = tiny_gguf();
  for (const std::uint32_t version : {0u, 1u, 4u, 100u}) {
    patch(bytes, kVersionAt, version);
    expect_error(bytes, ErrorCode::unsupported, "version");
  }
  patch(bytes, kVersionAt, std::uint32_t{0x03000000});
  expect_error(bytes, ErrorCode::unsupported, "big-endian");
}

TEST(Gguf, RefusesCountsThatTheFileHasNoRoomFor) {
  const std::string good = tiny_gguf();
  for (const std::uint64_t count :
       {~std::uint64_t{0}, std::uint64_t{1} << 63, std::uint64_t{good.size()}}) {
    std::string bytes = good;
    patch(bytes, kTensorCountAt, count);
    expect_corrupt(bytes, "tensors, more than the file has room for");
    bytes = good;
    patch(bytes, kValueCountAt, count);
    expect_corrupt(bytes, "metadata values, more than the file has room for");
  }
}

TEST(Gguf, RefusesArraysLongerThanTheFile) {
  std::string bytes = tiny_gguf();
  // After the key: the type array, the elements' type, their count.
  const std::size_t count_at = after(bytes, "tokenizer.ggml.tokens") + 8;
  for (const std::uint64_t count :
       {~std::uint64_t{0}, std::uint64_t{1} << 61, std::uint64_t{bytes.size()}}) {
    patch(bytes, count_at, count);
    expect_corrupt(bytes, "tokenizer.ggml.tokens");
  }
}

TEST(Gguf, RefusesStringsLongerThanTheFile) {
  std::string bytes = tiny_gguf();
  patch(bytes, kFirstValueAt, ~std::uint64_t{0});
  expect_corrupt(bytes, "cut off");
}

TEST(Gguf, RefusesBadMetadata) {
  std::string bytes = tiny_gguf();
  patch(bytes, after(bytes, "general.name"), std::uint32_t{13});
  expect_corrupt(bytes, "general.name has type 13");

  bytes = tiny_gguf();  // an array of arrays
  patch(bytes, after(bytes, "tokenizer.ggml.tokens") + 4, std::uint32_t{9});
  expect_corrupt(bytes, "tokenizer.ggml.tokens has type 9");

  bytes = tiny_gguf();  // llama.context_length and llama.vocab_leng.. have equal lengths
  const std::string from = "llama.attention.head_count_kv";
  const std::string to = "llama.attention.head_count_kx";
  bytes.replace(bytes.find(from), from.size(), to);
  ASSERT_TRUE(parse(bytes));
  Metadata metadata = tiny_metadata();
  metadata.set("x.a", true);
  metadata.set("x.b", true);
  bytes = gguf_bytes(metadata, tiny_tensors(metadata));
  bytes.replace(bytes.find("x.b"), 3, "x.a");
  expect_corrupt(bytes, "x.a appears twice");

  metadata = Metadata();
  metadata.set("", true);
  expect_corrupt(gguf_bytes(metadata, {}), "is empty");
}

TEST(Gguf, RefusesBadAlignments) {
  for (const std::uint64_t alignment : {0u, 3u, 48u}) {
    Metadata metadata = tiny_metadata();
    metadata.set("general.alignment", alignment);
    expect_corrupt(gguf_bytes(metadata, {}), "general.alignment");
  }
  Metadata metadata = tiny_metadata();
  metadata.set("general.alignment", std::uint64_t{32}, {GgufType::uint64, {}});
  expect_corrupt(gguf_bytes(metadata, {}), "general.alignment");
}

// A file of two F32 tensors of 8 elements, "first" and "other".
std::string two_tensors() {
  std::vector<GgufTensor> tensors(2);
  tensors[0] = {.name = "first", .type = GGML_TYPE_F32, .shape = {8, 1, 1, 1}};
  tensors[1] = {.name = "other", .type = GGML_TYPE_F32, .shape = {8, 1, 1, 1}};
  return gguf_bytes(Metadata(), tensors);
}

// Where the fields of the entry of the one-dimensional tensor `name` stand.
struct Entry {
  std::size_t dimensions;
  std::size_t columns;
  std::size_t type;
  std::size_t offset;
};

Entry entry_of(const std::string& bytes, const std::string& name) {
  const std::size_t at = after(bytes, name);
  return {at, at + 4, at + 12, at + 16};
}

TEST(Gguf, RefusesBadShapes) {
  std::string bytes = two_tensors();
  patch(bytes, entry_of(bytes, "other").dimensions, std::uint32_t{5});
  expect_corrupt(bytes, "tensor other has 5 dimensions");

  for (const std::int64_t columns : {std::int64_t{0}, std::int64_t{-8}}) {
    bytes = two_tensors();
    patch(bytes, entry_of(bytes, "other").columns, columns);
    expect_corrupt(bytes, "tensor other has a dimension of");
  }

  bytes = two_tensors();
  patch(bytes, entry_of(bytes, "other").columns, std::int64_t{1} << 62);
  expect_corrupt(bytes, "tensor other");

  std::vector<GgufTensor> tensors(1);
  tensors[0] = {.name = "wide", .type = GGML_TYPE_F32, .shape = {8, 8, 1, 1}};
  bytes = gguf_bytes(Metadata(), tensors);
  const std::size_t at = after(bytes, "wide") + 4;
  patch(bytes, at, std::int64_t{1} << 40);
  patch(bytes, at + 8, std::int64_t{1} << 40);
  expect_corrupt(bytes, "more elements than 64 bits count");
}

TEST(Gguf, RefusesUnknownRemovedAndIllFittingTypes) {
  for (const std::uint32_t type : {4u, 5u, 31u, 33u, 36u, 38u}) {
    std::string bytes = two_tensors();
    patch(bytes, entry_of(bytes, "other").type, type);
    expect_error(bytes, ErrorCode::unsupported, "removed");
  }
  for (const std::uint32_t type : {static_cast<std::uint32_t>(GGML_TYPE_COUNT), 1000u, ~0u}) {
    std::string bytes = two_tensors();
    patch(bytes, entry_of(bytes, "other").type, type);
    expect_error(bytes, ErrorCode::unsupported, "does not know");
  }
  std::string bytes = two_tensors();
  patch(bytes, entry_of(bytes, "other").type, static_cast<std::uint32_t>(GGML_TYPE_Q8_0));
  expect_corrupt(bytes, "tensor other has rows of 8 elements, no multiple of the 32");
}

TEST(Gguf, RefusesTensorsInTheWrongPlace) {
  std::string bytes = two_tensors();
  patch(bytes, entry_of(bytes, "other").offset, std::uint64_t{0});
  expect_corrupt(bytes, "tensor other overlaps");

  bytes = two_tensors();
  patch(bytes, entry_of(bytes, "other").offset, std::uint64_t{33});
  expect_corrupt(bytes, "tensor other starts at offset 33, no multiple of the alignment");

  bytes = two_tensors();
  patch(bytes, entry_of(bytes, "other").offset, std::uint64_t{64});
  expect_corrupt(bytes, "tensor other does not follow");

  bytes = two_tensors();
  patch(bytes, entry_of(bytes, "other").offset, ~std::uint64_t{31});
  expect_corrupt(bytes, "tensor other");

  bytes = two_tensors();
  patch(bytes, entry_of(bytes, "other").columns, std::int64_t{9});
  expect_corrupt(bytes, "tensor other ends past the end of the file");
}

TEST(Gguf, RefusesBadTensorNames) {
  std::string bytes = two_tensors();
  bytes.replace(bytes.find("other"), 5, "first");
  expect_corrupt(bytes, "tensor first appears twice");

  std::vector<GgufTensor> tensors(1);
  tensors[0] = {.name = std::string(64, 'x'), .type = GGML_TYPE_F32, .shape = {8, 1, 1, 1}};
  expect_corrupt(gguf_bytes(Metadata(), tensors), "64 characters");
  tensors[0].name.clear();
  expect_corrupt(gguf_bytes(Metadata(), tensors), "0 characters");
}

// The padding after the last tensor may be missing; anything more, not.
TEST(Gguf, RefusesATruncatedFileAtEveryLength) {
  const std::string bytes = two_tensors();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(parse(std::string_view(bytes).substr(0, size))) << size;
  }
  EXPECT_TRUE(parse(bytes));
}

TEST(Gguf, AsksForMoreWhereOnlyTheBeginningIsAtHand) {
  const std::string bytes = tiny_gguf();
  const auto whole = parse(bytes);
  ASSERT_TRUE(whole);
  for (std::size_t size = 4; size < bytes.size(); size += 5) {
    const auto part =
        parse_gguf("tiny.gguf", std::as_bytes(std::span(bytes).first(size)), bytes.size());
    if (part) {
      EXPECT_EQ(part->tensors.size(), whole->tensors.size());
      EXPECT_GT(size + whole->alignment, whole->data_offset);
    } else {
      EXPECT_EQ(part.error().code, ErrorCode::resource_exhausted) << size;
    }
  }
}

TEST(ReadGguf, NamesWhatIsNoFile) {
  const TemporaryFolder folder;
  const auto code_of = [](const std::filesystem::path& path) {
    const auto gguf = read_gguf(path);
    EXPECT_FALSE(gguf);
    EXPECT_THAT(gguf.error().what, HasSubstr(path.string()));
    return gguf.error().code;
  };
  EXPECT_EQ(code_of(folder.path() / "missing.gguf"), ErrorCode::not_found);
  EXPECT_EQ(code_of(folder.path()), ErrorCode::invalid_argument);
  EXPECT_EQ(code_of("/dev/null"), ErrorCode::invalid_argument);
  write_file(folder.path() / "empty.gguf", "");
  EXPECT_EQ(code_of(folder.path() / "empty.gguf"), ErrorCode::corrupt);
}

TEST(ReadGguf, ReadsHeadersLargerThanTheFirstRead) {
  const TemporaryFolder folder;
  Metadata metadata = tiny_metadata();
  constexpr std::size_t kLong = 40 << 20;
  metadata.set("a.long.text", std::string(kLong, 'x'));
  const auto path = folder.path() / "long.gguf";
  write_file(path, gguf_bytes(metadata, tiny_tensors(metadata)));
  const auto gguf = read_gguf(path);
  ASSERT_TRUE(gguf) << gguf.error().message();
  EXPECT_EQ(gguf->metadata.find_string("a.long.text")->size(), kLong);
}

}  // namespace
}  // namespace prima::model

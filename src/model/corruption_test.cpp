// Whatever happens to the bytes of a file, reading it ends with a model or an error.
#include <gtest/gtest.h>

#include "model/random_weights.h"
#include "model/testing/tiny_gguf.h"

namespace prima::model {
namespace {

class Corruption : public testing::TestWithParam<const char*> {};

TEST_P(Corruption, TheFileItselfIsGood) {
  const auto status = check_model_bytes(tiny_gguf(GetParam()));
  EXPECT_TRUE(status) << status.error().message();
}

TEST_P(Corruption, OfAnyByteNeverCrashes) {
  const std::string good = tiny_gguf(GetParam());
  const std::size_t header = parse(good)->data_offset;
  std::string bytes = good;
  std::size_t refused = 0;
  for (std::size_t at = 0; at < header; ++at) {
    // Another bit at each byte: every kind of field has thousands of bytes here.
    bytes[at] = static_cast<char>(good[at] ^ (at % 3 == 0 ? 0xff : 1 << (at % 8)));
    const auto status = check_model_bytes(bytes);
    if (!status) {
      ++refused;
      EXPECT_FALSE(status.error().what.empty());
    }
    bytes[at] = good[at];
  }
  // Many bytes do not matter (texts of tokens), but sizes, types and names do.
  EXPECT_GT(refused, header / 8);
}

TEST_P(Corruption, ByTruncationIsAlwaysNoticed) {
  const std::string good = tiny_gguf(GetParam());
  const Gguf gguf = *parse(good);
  const std::size_t end = gguf.tensors.back().offset + gguf.tensors.back().size;
  for (std::size_t size = 0; size < end; size += size < gguf.data_offset ? 3 : 61) {
    EXPECT_FALSE(check_model_bytes(std::string_view(good).substr(0, size))) << size;
  }
}

TEST_P(Corruption, OfManyBytesNeverCrashes) {
  const std::string good = tiny_gguf(GetParam());
  const std::size_t header = parse(good)->data_offset;
  Random random(7);
  constexpr int kRounds = 500;
  for (int round = 0; round < kRounds; ++round) {
    std::string bytes = good;
    const std::uint64_t count = 1 + random.next() % 8;
    for (std::uint64_t i = 0; i < count; ++i) {
      bytes[random.next() % header] = static_cast<char>(random.next());
    }
    static_cast<void>(check_model_bytes(bytes));
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, Corruption,
                         testing::Values("llama", "qwen3moe", "gemma3", "phi3"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace prima::model

#include "model/random_blocks.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "model/random_weights.h"

namespace prima::model {
namespace {

// Block layouts: ggml's ggml-common.h.
void set_scale(ggml_type type, ggml_fp16_t scale, std::byte* block) {
  if (type != GGML_TYPE_IQ1_M) {
    std::memcpy(block, &scale, sizeof scale);
    return;
  }
  // IQ1_M keeps a nibble of its scale at the top of each of the four words it ends with.
  constexpr std::size_t kWordsAt = 48;
  for (int i = 0; i < 4; ++i) {
    std::byte* at = block + kWordsAt + 2 * i;
    std::uint16_t word = 0;
    std::memcpy(&word, at, sizeof word);
    const int nibble = (scale >> (4 * i)) & 0xf;
    word = static_cast<std::uint16_t>((word & 0x0fff) | (nibble << 12));
    std::memcpy(at, &word, sizeof word);
  }
}

}  // namespace

bool has_random_blocks(ggml_type type) {
  switch (type) {
    case GGML_TYPE_IQ1_S:
    case GGML_TYPE_IQ1_M:
    case GGML_TYPE_IQ2_XXS:
    case GGML_TYPE_IQ2_XS:
    case GGML_TYPE_IQ2_S:
    case GGML_TYPE_IQ3_XXS:
    case GGML_TYPE_IQ3_S: return true;
    default: return false;
  }
}

ggml_fp16_t random_block_scale(ggml_type type, float deviation) {
  constexpr std::int64_t kBlocks = 256;
  const std::int64_t elements = kBlocks * ggml_blck_size(type);
  std::vector<std::byte> blocks(kBlocks * ggml_type_size(type));
  Random random(0);
  fill_random_blocks(type, ggml_fp32_to_fp16(1.0f), random, blocks);
  std::vector<float> values(static_cast<std::size_t>(elements));
  ggml_get_type_traits(type)->to_float(blocks.data(), values.data(), elements);
  double squares = 0;
  for (const float value : values) squares += static_cast<double>(value) * value;
  const double measured = std::sqrt(squares / static_cast<double>(elements));
  return ggml_fp32_to_fp16(static_cast<float>(deviation / measured));
}

void fill_random_blocks(ggml_type type, ggml_fp16_t scale, Random& random,
                        std::span<std::byte> blocks) {
  for (std::size_t at = 0; at < blocks.size(); at += sizeof(std::uint64_t)) {
    const std::uint64_t bits = random.next();
    std::memcpy(blocks.data() + at, &bits, std::min(sizeof bits, blocks.size() - at));
  }
  const std::size_t block = ggml_type_size(type);
  for (std::size_t at = 0; at < blocks.size(); at += block) {
    set_scale(type, scale, blocks.data() + at);
  }
}

}  // namespace prima::model

#include "model/random_weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "model/random_blocks.h"

namespace prima::model {
namespace {

// Enough that products of a pool's blocks look independent. Small tensors make do with the smaller,
// which takes less time to quantize.
constexpr std::int64_t kPoolElements = 1 << 19;
constexpr std::int64_t kSmallPoolElements = 1 << 16;
constexpr std::int64_t kSmallTensorElements = 1 << 22;
// Copying less at a time than this is slower than a disk.
constexpr Bytes kSmallestGranule = 64;
// A row has to be one of at least 2^42 for equal ones to be rare: with the 128k rows of a large
// vocabulary, one pair in 500 models.
constexpr double kRowBits = 42;
constexpr Bytes kBufferSize = 4 * kMiB;

std::uint64_t splitmix64(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

struct Granules {
  Bytes size = 0;
  std::int64_t elements = 0;
  std::uint64_t count = 0;  // in the pool
};

Granules granules_of(ggml_type type, std::int64_t pool_elements) {
  const Bytes block = ggml_type_size(type);
  const Bytes blocks = (kSmallestGranule + block - 1) / block;
  Granules granules;
  granules.size = blocks * block;
  granules.elements = static_cast<std::int64_t>(blocks) * ggml_blck_size(type);
  granules.count = static_cast<std::uint64_t>(pool_elements / granules.elements);
  return granules;
}

bool rows_would_repeat(const Granules& granules, std::int64_t columns) {
  const auto in_a_row = static_cast<double>(columns / granules.elements);
  return in_a_row * std::log2(static_cast<double>(granules.count)) < kRowBits;
}

void quantize(ggml_type type, std::span<const float> weights, std::int64_t columns,
              std::byte* out) {
  const auto n = static_cast<std::int64_t>(weights.size());
  ggml_quantize_chunk(type, weights.data(), out, 0, n / columns, columns, nullptr);
}

float root_mean_square(ggml_type type, std::span<const std::byte> bytes, std::int64_t n) {
  std::vector<float> values(static_cast<std::size_t>(n));
  if (type == GGML_TYPE_F32) {
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  } else {
    ggml_get_type_traits(type)->to_float(bytes.data(), values.data(), n);
  }
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  return static_cast<float>(std::sqrt(sum / static_cast<double>(n)));
}

// By how much weights of deviation 1 have to be scaled so that they have it after quantization too:
// types of few bits lose or gain some.
float compensation(ggml_type type, std::int64_t columns) {
  if (!ggml_is_quantized(type)) return 1.0f;
  constexpr std::int64_t kSample = 16;
  Random random(seed_for(0, ggml_type_name(type)));
  std::vector<float> weights(static_cast<std::size_t>(kSample * columns));
  for (float& weight : weights) weight = random.normal();
  std::vector<std::byte> bytes(kSample * ggml_row_size(type, columns));
  quantize(type, weights, columns, bytes.data());
  const float measured = root_mean_square(type, bytes, kSample * columns);
  return measured > 0.0f ? 1.0f / measured : 1.0f;
}

}  // namespace

Random::Random(std::uint64_t seed) {
  for (std::uint64_t& word : state_) word = splitmix64(seed);
}

std::uint64_t Random::next() {
  const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
  const std::uint64_t shifted = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= shifted;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

float Random::normal() {
  const std::uint64_t bits = next();
  std::int64_t sum = 0;
  for (int i = 0; i < 4; ++i) sum += static_cast<std::int64_t>((bits >> (16 * i)) & 0xffff);
  // Four uniform numbers of 16 bits have mean 4 * 32767.5 and variance 4 * (65536^2 - 1) / 12.
  constexpr float kMean = 131070.0f;
  constexpr float kInverseDeviation = 2.6428997e-05f;
  return (static_cast<float>(sum) - kMean) * kInverseDeviation;
}

std::uint64_t seed_for(std::uint64_t seed, std::string_view name) {
  // FNV-1a over the name, then mixed.
  std::uint64_t hash = 0xcbf29ce484222325 ^ seed;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return splitmix64(hash);
}

bool is_quantizable(ggml_type type) {
  return type == GGML_TYPE_F32 || ggml_get_type_traits(type)->to_float != nullptr;
}

const RandomWeights::Pool& RandomWeights::pool_for(const PoolKey& key) {
  const auto [found, is_new] = pools_.try_emplace(key);
  Pool& pool = found->second;
  if (!is_new) return pool;
  const Granules granules = granules_of(key.type, key.elements);
  const std::uint64_t kind = seed_ ^ std::bit_cast<std::uint32_t>(key.deviation);
  Random random(seed_for(kind, ggml_type_name(key.type)));
  const float scale = key.deviation * compensation(key.type, granules.elements);
  std::vector<float> weights(granules.count * static_cast<std::uint64_t>(granules.elements));
  for (float& weight : weights) weight = scale * random.normal();
  pool.resize(granules.count * granules.size);
  quantize(key.type, weights, granules.elements, pool.data());
  return pool;
}

Status RandomWeights::generate(const Tensor& tensor, const ByteSink& sink) {
  if (has_random_blocks(tensor.type)) return write_random_blocks(tensor, sink);
  const bool small = tensor.columns * tensor.rows <= kSmallTensorElements;
  const PoolKey key{tensor.type, tensor.deviation, small ? kSmallPoolElements : kPoolElements};
  if (tensor.distinct_rows &&
      rows_would_repeat(granules_of(key.type, key.elements), tensor.columns)) {
    return quantize_rows(tensor, sink);
  }
  return compose(tensor, key, sink);
}

Status RandomWeights::compose(const Tensor& tensor, const PoolKey& key, const ByteSink& sink) {
  const Granules granules = granules_of(key.type, key.elements);
  const Pool& pool = pool_for(key);
  Random random(seed_for(seed_, tensor.name));
  std::vector<std::byte> buffer(kBufferSize / granules.size * granules.size);
  Bytes size = ggml_row_size(tensor.type, tensor.columns) * static_cast<Bytes>(tensor.rows);
  while (size > 0) {
    const Bytes count = std::min<Bytes>(size, buffer.size());
    for (Bytes at = 0; at < count; at += granules.size) {
      // The upper half of a product maps 32 random bits evenly onto the pool.
      const std::uint64_t index = ((random.next() >> 32) * granules.count) >> 32;
      std::memcpy(buffer.data() + at, pool.data() + index * granules.size, granules.size);
    }
    PRIMA_RETURN_IF_ERROR(sink(std::span(buffer).first(count)));
    size -= count;
  }
  return {};
}

Status RandomWeights::write_random_blocks(const Tensor& tensor, const ByteSink& sink) {
  const ggml_fp16_t scale = random_block_scale(tensor.type, tensor.deviation);
  Random random(seed_for(seed_, tensor.name));
  const Bytes block = ggml_type_size(tensor.type);
  std::vector<std::byte> buffer(kBufferSize / block * block);
  Bytes size = ggml_row_size(tensor.type, tensor.columns) * static_cast<Bytes>(tensor.rows);
  while (size > 0) {
    const auto part = std::span(buffer).first(std::min<Bytes>(size, buffer.size()));
    fill_random_blocks(tensor.type, scale, random, part);
    PRIMA_RETURN_IF_ERROR(sink(part));
    size -= part.size();
  }
  return {};
}

Status RandomWeights::quantize_rows(const Tensor& tensor, const ByteSink& sink) {
  Random random(seed_for(seed_, tensor.name));
  const float scale = tensor.deviation * compensation(tensor.type, tensor.columns);
  const Bytes row = ggml_row_size(tensor.type, tensor.columns);
  const std::int64_t rows_at_once = std::max<std::int64_t>(
      1, static_cast<std::int64_t>(kBufferSize / sizeof(float)) / tensor.columns);
  std::vector<float> weights;
  std::vector<std::byte> buffer;
  for (std::int64_t done = 0; done < tensor.rows;) {
    const std::int64_t count = std::min(tensor.rows - done, rows_at_once);
    weights.resize(static_cast<std::size_t>(count * tensor.columns));
    for (float& weight : weights) weight = scale * random.normal();
    buffer.resize(row * static_cast<Bytes>(count));
    quantize(tensor.type, weights, tensor.columns, buffer.data());
    PRIMA_RETURN_IF_ERROR(sink(buffer));
    done += count;
  }
  return {};
}

}  // namespace prima::model

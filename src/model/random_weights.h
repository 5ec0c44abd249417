// Random tensors of any type ggml can quantize to, deterministic from a seed, at the speed of a
// disk and in constant memory.
//
// Tensors are composed of blocks drawn from a pool that was quantized once; a block means the same
// wherever it stands, in every type that ggml has. Where rows have to be distinct, but have too few
// blocks for that, they are quantized one by one. Types that are slow to quantize to are made of
// random blocks instead (random_blocks.h).
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string_view>
#include <vector>

#include <ggml.h>

#include "base/result.h"
#include "base/units.h"

namespace prima::model {

// xoshiro256**: fast, and the same on every platform.
class Random {
 public:
  explicit Random(std::uint64_t seed);

  std::uint64_t next();
  // Close to normal, mean 0, variance 1, within 3.5: a sum of four uniform numbers, which every
  // platform rounds alike, as it does not do with logarithms.
  float normal();

 private:
  std::uint64_t state_[4];
};

// A seed of its own for each thing that is named.
std::uint64_t seed_for(std::uint64_t seed, std::string_view name);

// True for types that weights can be quantized to.
bool is_quantizable(ggml_type type);

using ByteSink = std::function<Status(std::span<const std::byte>)>;

class RandomWeights {
 public:
  explicit RandomWeights(std::uint64_t seed) : seed_(seed) {}

  struct Tensor {
    std::string_view name;
    ggml_type type = GGML_TYPE_F32;
    std::int64_t columns = 0;
    std::int64_t rows = 0;
    float deviation = 1.0f;
    bool distinct_rows = false;
  };

  // Writes a tensor's bytes to `sink`, the same for the same seed and description.
  // REQUIRES: is_quantizable(type); columns a multiple of its block.
  Status generate(const Tensor& tensor, const ByteSink& sink);

 private:
  // Granules laid end to end: the whole number of blocks that is copied as one.
  using Pool = std::vector<std::byte>;

  // Which pool a tensor takes its blocks from.
  struct PoolKey {
    ggml_type type = GGML_TYPE_F32;
    float deviation = 1.0f;
    std::int64_t elements = 0;

    friend auto operator<=>(const PoolKey&, const PoolKey&) = default;
  };

  const Pool& pool_for(const PoolKey& key);
  Status compose(const Tensor& tensor, const PoolKey& key, const ByteSink& sink);
  Status quantize_rows(const Tensor& tensor, const ByteSink& sink);
  Status write_random_blocks(const Tensor& tensor, const ByteSink& sink);

  std::uint64_t seed_;
  std::map<PoolKey, Pool> pools_;
};

}  // namespace prima::model

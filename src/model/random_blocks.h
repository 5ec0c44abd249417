// Random blocks of the types below four bits whose quantizers want an importance matrix and tables
// that take ten seconds to build. In them every pattern of bits is valid, so that random bits do,
// with the block's scale set to give the deviation wanted.
#pragma once

#include <cstddef>
#include <span>

#include <ggml.h>

namespace prima::model {

class Random;

// True for IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS and IQ3_S.
bool has_random_blocks(ggml_type type);

// The scale of blocks whose weights have standard deviation `deviation`.
// REQUIRES: has_random_blocks(type).
ggml_fp16_t random_block_scale(ggml_type type, float deviation);

// Fills `blocks`, a whole number of blocks.
void fill_random_blocks(ggml_type type, ggml_fp16_t scale, Random& random,
                        std::span<std::byte> blocks);

}  // namespace prima::model

// One tensor of a synthetic model: what its elements are drawn from. Internal to the synthesizer.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/atomic_file.h"
#include "model/gguf.h"
#include "model/hyperparameters.h"
#include "model/random_weights.h"
#include "model/synth.h"
#include "model/tensor_role.h"

namespace prima::model {

// How the elements of a tensor are distributed.
struct Distribution {
  float mean = 0.0f;
  float deviation = 0.0f;
};

// Chosen so that activations and logits stay of the size they have in trained models.
Distribution distribution_of(const Hyperparameters& model, TensorRole role, std::int64_t columns,
                             bool tied);

// Writes header and tensors, in the order of their offsets, each padded to its own.
class TensorWriter {
 public:
  // `size`: of the whole file.
  TensorWriter(AtomicFile& file, Bytes size, std::uint64_t seed, const SynthProgress& progress)
      : file_(file), size_(size), seed_(seed), progress_(progress), random_(seed) {}

  Status write_header(std::string_view header);
  Status write_random(const GgufTensor& tensor, Distribution distribution);
  Status write_zeros(const GgufTensor& tensor);
  Status write_values(const GgufTensor& tensor, std::span<const float> values);
  // `bytes` bytes from `source_offset` on of the file open as `descriptor`.
  Status write_copy(const GgufTensor& tensor, int descriptor, Bytes source_offset,
                    const std::string& source_name);
  // Pads the last tensor and puts the file in its place.
  Status finish();

 private:
  Status put(std::span<const std::byte> bytes);
  Status put_zeros(Bytes count);
  Status pad_to(Bytes offset);

  AtomicFile& file_;
  Bytes size_;
  std::uint64_t seed_;
  const SynthProgress& progress_;
  RandomWeights random_;
};

}  // namespace prima::model

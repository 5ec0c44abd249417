// The weights of the layers that a device runs, as ggml tensors that a graph can use.
//
// A stage is the smallest run of weights fetched as one: some small matrices that are used
// together, a matrix, or a part of a large one, some of its rows. Its tensors have data only
// between acquire() and release(), whether it is resident at the moment or streamed:
//
//     on disk --prefetch--> loading --read done--> ready --acquire--> in use --release--> on disk
//
// Never make a view of such a weight in a graph: a view keeps the pointer it was made with.
//
// acquire() and release() are called by the computing thread only; parts() and find() are
// thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include <ggml.h>

#include "base/result.h"
#include "base/units.h"
#include "model/tensor_role.h"

namespace prima::weights {

using StageIndex = std::uint32_t;

class Weights {
 public:
  virtual ~Weights() = default;

  // The tensor, or its parts: each some of its rows, in order. Empty if this device does not hold
  // it. Stable while the object lives.
  virtual std::span<ggml_tensor* const> parts(model::TensorRole role, int layer) const = 0;

  // A tensor that is in one part, or nullptr.
  ggml_tensor* find(model::TensorRole role, int layer) const {
    const auto all = parts(role, layer);
    return all.empty() ? nullptr : all.front();
  }

  // The stage that must be in use while a weight is; nullopt for weights that are always in memory.
  virtual std::optional<StageIndex> streamed_stage(const ggml_tensor* weight) const = 0;

  // Whether the stage is read from disk each time; else it stays in memory, and several of them may
  // be in use at once. Changes with residency_version() only. Thread-safe.
  virtual bool is_streamed(StageIndex) const { return false; }
  virtual std::uint64_t residency_version() const { return 0; }

  // Waits until the stage's weights are in memory and sets its tensors' data. Fails with io,
  // unavailable or deadline_exceeded.
  virtual Status acquire(StageIndex stage) = 0;
  virtual void release(StageIndex stage) = 0;

  // The stage is acquired next; called while a processor of its own computes with others. What
  // fails here is said by acquire().
  virtual void prefetch(StageIndex /*stage*/) {}

  // Memory that the weights take: resident bytes and slots.
  virtual Bytes memory_bytes() const = 0;
};

}  // namespace prima::weights

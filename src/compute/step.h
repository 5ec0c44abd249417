// One batch of tokens, of one or several sequences, that travels through the layers together.
//
// A step says everything that a device needs to run its layers except the hidden state itself, and
// nothing about the text: token ids never leave the head. The head chooses the KV cells, so every
// device's cache has the same layout, whatever the plan.
//
// Value types; thread-compatible.
#pragma once

#include <cstdint>
#include <vector>

namespace prima::compute {

// Done to the KV cache before the step's tokens are added. Positions: [from, to).
struct KvOperation {
  enum class Kind : std::uint8_t {
    remove,  // forget `sequence` in the range; cells that no sequence uses become free
    copy,    // the range of `sequence` also belongs to `target` from now on (shared, not copied)
  };
  Kind kind = Kind::remove;
  std::int32_t sequence = 0;
  std::int32_t target = 0;
  std::int32_t from = 0;
  std::int32_t to = 0;

  friend bool operator==(const KvOperation&, const KvOperation&) = default;
};

struct Step {
  std::uint64_t id = 0;
  std::vector<KvOperation> kv_operations;
  std::vector<std::int32_t> sequences;  // (n_tokens)
  std::vector<std::int32_t> positions;  // (n_tokens); ascending within a sequence
  std::vector<std::uint32_t> cells;     // (n_tokens); where each token's keys and values go
  std::uint32_t n_kv = 0;               // attention reads cells [0, n_kv)
  std::vector<std::uint32_t> outputs;   // tokens whose logits are wanted: ascending indices
  bool embeddings = false;  // of outputs not logits, but what these are made of; the head's alone

  std::uint32_t n_tokens() const { return static_cast<std::uint32_t>(positions.size()); }

  friend bool operator==(const Step&, const Step&) = default;
};

}  // namespace prima::compute

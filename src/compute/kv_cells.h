// Which cell of the KV cache holds which position of which sequences: one pool of cells shared by
// all sequences, as in llama.cpp (ggml has no paged attention). Bookkeeping only; the keys and
// values are in kv_cache.h. Every device keeps the same table by applying the same steps in the
// same order.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "compute/step.h"

namespace prima::compute {

inline constexpr std::int32_t kMaxSequences = 64;

// Attention reads cells in multiples of this, so that graphs are reused while a context grows.
inline constexpr std::uint32_t kKvCellsGranularity = 256;

class KvCells {
 public:
  explicit KvCells(std::uint32_t n_cells);

  std::uint32_t size() const { return static_cast<std::uint32_t>(cells_.size()); }
  std::uint32_t used() const { return used_; }

  // At the head: fills in `cells` and `n_kv` of a step whose kv_operations, sequences and positions
  // are set, as if the operations had been applied. Changes nothing here; apply() does. Fails with
  // resource_exhausted if the free cells are too few.
  Status place(Step& step) const;

  // On every device, once per step, before its first layer runs. Fails with corrupt, changing
  // nothing, if the step contradicts the table (cells out of range, in use or named twice,
  // sequences out of range, n_kv too small).
  Status apply(const Step& step);

  // What used() would be after these operations.
  std::uint32_t used_after(std::span<const KvOperation> operations) const;

  // Forgets everything.
  void clear();

  // The mask of a step that has been applied, (n_kv, n_tokens): 0 where the token may attend to the
  // cell, -infinity elsewhere. `window` > 0 hides positions more than window-1 tokens back.
  // `Element` is ggml_fp16_t's bit pattern.
  void fill_mask(const Step& step, std::uint32_t window, std::span<std::uint16_t> mask) const;

  // The highest position of a sequence, or -1.
  std::int32_t last_position(std::int32_t sequence) const;

 private:
  struct Cell {
    std::int32_t position = -1;   // -1: free
    std::uint64_t sequences = 0;  // bit set
  };

  static std::uint32_t count_used(std::span<const Cell> cells);
  static void apply_operation(const KvOperation& operation, std::vector<Cell>& cells);

  std::vector<Cell> cells_;
  std::uint32_t used_ = 0;
};

}  // namespace prima::compute

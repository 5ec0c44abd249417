#include "compute/kv_cells.h"

#include <algorithm>
#include <string>

namespace prima::compute {
namespace {

constexpr std::uint16_t kHalfZero = 0x0000;
constexpr std::uint16_t kHalfMinusInfinity = 0xFC00;

bool valid_sequence(std::int32_t sequence) { return sequence >= 0 && sequence < kMaxSequences; }

std::uint64_t bit(std::int32_t sequence) { return std::uint64_t{1} << sequence; }

Status corrupt(std::string what) {
  return fail(ErrorCode::corrupt, "step contradicts the KV cache: " + std::move(what));
}

Status check_operations(const Step& step) {
  for (const KvOperation& operation : step.kv_operations) {
    if (!valid_sequence(operation.sequence) ||
        (operation.kind == KvOperation::Kind::copy && !valid_sequence(operation.target))) {
      return corrupt("a KV operation names a sequence outside 0.." +
                     std::to_string(kMaxSequences - 1));
    }
  }
  return {};
}

Status check_tokens(const Step& step) {
  if (step.sequences.size() != step.positions.size()) {
    return corrupt("it has " + std::to_string(step.positions.size()) + " positions but " +
                   std::to_string(step.sequences.size()) + " sequences");
  }
  for (std::size_t i = 0; i < step.positions.size(); ++i) {
    if (!valid_sequence(step.sequences[i])) {
      return corrupt("sequence " + std::to_string(step.sequences[i]) + " is outside 0.." +
                     std::to_string(kMaxSequences - 1));
    }
    if (step.positions[i] < 0) return corrupt("a position is negative");
  }
  return {};
}

std::uint32_t cells_to_read(std::uint32_t last_used, std::uint32_t n_cells) {
  const std::uint32_t granules = last_used / kKvCellsGranularity + 1;
  return std::min(granules * kKvCellsGranularity, n_cells);
}

}  // namespace

KvCells::KvCells(std::uint32_t n_cells) : cells_(n_cells) {}

void KvCells::apply_operation(const KvOperation& operation, std::vector<Cell>& cells) {
  for (Cell& cell : cells) {
    if (cell.position < operation.from || cell.position >= operation.to) continue;
    if ((cell.sequences & bit(operation.sequence)) == 0) continue;
    if (operation.kind == KvOperation::Kind::copy) {
      cell.sequences |= bit(operation.target);
    } else {
      cell.sequences &= ~bit(operation.sequence);
      if (cell.sequences == 0) cell.position = -1;
    }
  }
}

Status KvCells::place(Step& step) const {
  PRIMA_RETURN_IF_ERROR(check_operations(step));
  PRIMA_RETURN_IF_ERROR(check_tokens(step));

  std::vector<Cell> after;
  const std::vector<Cell>* cells = &cells_;
  if (!step.kv_operations.empty()) {
    after = cells_;
    for (const KvOperation& operation : step.kv_operations) apply_operation(operation, after);
    cells = &after;
  }

  step.cells.clear();
  std::uint32_t last_used = 0;
  for (std::uint32_t i = 0; i < cells->size(); ++i) {
    if ((*cells)[i].position < 0) {
      if (step.cells.size() == step.n_tokens()) continue;
      step.cells.push_back(i);
    }
    last_used = i;
  }
  if (step.cells.size() < step.n_tokens()) {
    const std::size_t free = step.cells.size();
    step.cells.clear();
    return fail(ErrorCode::resource_exhausted,
                "the context is full: " + std::to_string(step.n_tokens()) +
                    " tokens to add, room for " + std::to_string(free) + " of " +
                    std::to_string(size()),
                "Start a new conversation or give a larger context (-c)");
  }
  step.n_kv = cells_to_read(last_used, size());
  return {};
}

Status KvCells::apply(const Step& step) {
  PRIMA_RETURN_IF_ERROR(check_operations(step));
  PRIMA_RETURN_IF_ERROR(check_tokens(step));
  if (step.cells.size() != step.positions.size()) {
    return corrupt("it has " + std::to_string(step.positions.size()) + " tokens but " +
                   std::to_string(step.cells.size()) + " cells");
  }
  if (step.n_kv == 0 || step.n_kv > size()) {
    return corrupt("it reads " + std::to_string(step.n_kv) + " cells of " + std::to_string(size()));
  }
  for (std::size_t i = 0; i < step.outputs.size(); ++i) {
    if (step.outputs[i] >= step.n_tokens() || (i > 0 && step.outputs[i] <= step.outputs[i - 1])) {
      return corrupt("its outputs are not ascending tokens of the step");
    }
  }

  std::vector<Cell> after = cells_;
  for (const KvOperation& operation : step.kv_operations) apply_operation(operation, after);
  for (std::uint32_t i = 0; i < step.n_tokens(); ++i) {
    const std::uint32_t cell = step.cells[i];
    if (cell >= size()) {
      return corrupt("cell " + std::to_string(cell) + " of " + std::to_string(size()));
    }
    if (after[cell].position >= 0) {
      return corrupt("cell " + std::to_string(cell) + " is in use");
    }
    after[cell] = {step.positions[i], bit(step.sequences[i])};
  }
  for (std::uint32_t i = step.n_kv; i < size(); ++i) {
    if (after[i].position >= 0) {
      return corrupt("cell " + std::to_string(i) + " is in use but only " +
                     std::to_string(step.n_kv) + " are read");
    }
  }
  cells_ = std::move(after);
  used_ = count_used(cells_);
  return {};
}

std::uint32_t KvCells::count_used(std::span<const Cell> cells) {
  return static_cast<std::uint32_t>(std::count_if(
      cells.begin(), cells.end(), [](const Cell& cell) { return cell.position >= 0; }));
}

std::uint32_t KvCells::used_after(std::span<const KvOperation> operations) const {
  if (operations.empty()) return used_;
  std::vector<Cell> after = cells_;
  for (const KvOperation& operation : operations) apply_operation(operation, after);
  return count_used(after);
}

void KvCells::clear() {
  std::fill(cells_.begin(), cells_.end(), Cell{});
  used_ = 0;
}

void KvCells::fill_mask(const Step& step, std::uint32_t window,
                        std::span<std::uint16_t> mask) const {
  for (std::uint32_t token = 0; token < step.n_tokens(); ++token) {
    const std::int32_t position = step.positions[token];
    const std::uint64_t sequence = bit(step.sequences[token]);
    const std::int32_t oldest = window > 0 ? position - static_cast<std::int32_t>(window) + 1 : 0;
    std::uint16_t* row = mask.data() + std::size_t{token} * step.n_kv;
    for (std::uint32_t i = 0; i < step.n_kv; ++i) {
      const Cell& cell = cells_[i];
      const bool visible =
          (cell.sequences & sequence) != 0 && cell.position <= position && cell.position >= oldest;
      row[i] = visible ? kHalfZero : kHalfMinusInfinity;
    }
  }
}

std::int32_t KvCells::last_position(std::int32_t sequence) const {
  std::int32_t last = -1;
  for (const Cell& cell : cells_) {
    if ((cell.sequences & bit(sequence)) != 0) last = std::max(last, cell.position);
  }
  return last;
}

}  // namespace prima::compute

#include "weights/weight_layout.h"

#include <algorithm>

namespace prima::weights {

using model::TensorRole;

namespace {

// Reading less than this as a stage of its own costs more time than it saves memory.
constexpr Bytes kSmallestStaged = 32 * kKiB;

// Of a part of a matrix: small against slots, large against the time of a read and of a piece of a
// graph.
constexpr Bytes kLargestPart = 16 * kMiB;

// Kernels and repacked layouts take rows in groups of up to 16.
constexpr std::int64_t kRowGroup = 64;

// How many rows of the matrix each of its parts has; all of them where it is in one.
std::int64_t rows_of_part(const PlacedTensor& whole) {
  const std::int64_t n_rows = whole.shape[1];
  const bool is_matrix = whole.shape[2] == 1 && whole.shape[3] == 1;
  if (!is_matrix || !is_staged(whole)) return n_rows;
  const auto n_parts =
      static_cast<std::int64_t>((whole.bytes.size + kLargestPart - 1) / kLargestPart);
  const std::int64_t rows = (n_rows + n_parts - 1) / n_parts;
  return std::min(n_rows, (rows + kRowGroup - 1) / kRowGroup * kRowGroup);
}

void add_in_parts(std::vector<PlacedTensor>& tensors, const PlacedTensor& whole) {
  const std::int64_t n_rows = whole.shape[1];
  const std::int64_t at_once = rows_of_part(whole);
  const Bytes row_bytes = whole.bytes.size / static_cast<Bytes>(std::max<std::int64_t>(1, n_rows));
  const auto n_parts = static_cast<std::uint32_t>((n_rows + at_once - 1) / at_once);
  for (std::uint32_t i = 0; i < n_parts; ++i) {
    PlacedTensor part = whole;
    part.part = i;
    part.n_parts = n_parts;
    if (n_parts > 1) {
      const std::int64_t first = at_once * i;
      part.shape[1] = std::min(at_once, n_rows - first);
      part.bytes = {whole.bytes.offset + static_cast<Bytes>(first) * row_bytes,
                    static_cast<Bytes>(part.shape[1]) * row_bytes};
      part.name += '[' + std::to_string(first) + ':' + std::to_string(first + part.shape[1]) + ']';
    }
    tensors.push_back(std::move(part));
  }
}

bool continues(const PlacedTensor& before, const PlacedTensor& part) {
  return part.part > 0 && before.role == part.role && before.layer == part.layer &&
         before.file == part.file && before.bytes.end() == part.bytes.offset &&
         before.buffer_type == part.buffer_type &&
         before.checksums.empty() == part.checksums.empty();
}

// "name[a:b]" and "name[b:c]"
std::string joined_name(const std::string& first, const std::string& second) {
  return first.substr(0, first.rfind(':')) + second.substr(second.rfind(':'));
}

}  // namespace

int rank_of_use(TensorRole role) {
  switch (role) {
    case TensorRole::attention_qkv:
    case TensorRole::attention_q:
    case TensorRole::attention_k:
    case TensorRole::attention_v: return 1;
    case TensorRole::attention_output: return 2;
    case TensorRole::router: return 3;
    case TensorRole::experts_gate:
    case TensorRole::ffn_gate: return 4;
    case TensorRole::experts_up:
    case TensorRole::ffn_up: return 5;
    case TensorRole::experts_down:
    case TensorRole::ffn_down: return 6;
    case TensorRole::output: return 7;
    default: return 0;  // small, always in memory
  }
}

bool is_staged(const PlacedTensor& tensor) {
  return rank_of_use(tensor.role) > 0 && tensor.bytes.size >= kSmallestStaged;
}

WeightLayout gguf_layout(const model::ModelFile& model, const WeightRequest& request) {
  WeightLayout layout;
  layout.paths.assign(model.paths().begin(), model.paths().end());
  const auto add = [&](TensorRole role, int layer, const model::TensorInfo* info) {
    if (info == nullptr) return;
    add_in_parts(layout.tensors, {.role = role,
                                  .layer = layer,
                                  .name = info->name,
                                  .type = info->type,
                                  .shape = info->shape,
                                  .file = info->file,
                                  .bytes = info->bytes,
                                  .buffer_type = ggml_backend_cpu_buffer_type()});
  };
  for (const int layer : request.layers) {
    const std::size_t first = layout.tensors.size();
    for (const TensorRole role : model::all_tensor_roles()) {
      if (model::is_per_layer(role)) add(role, layer, model.find(role, layer));
    }
    std::stable_sort(layout.tensors.begin() + static_cast<std::ptrdiff_t>(first),
                     layout.tensors.end(), [](const PlacedTensor& a, const PlacedTensor& b) {
                       return rank_of_use(a.role) < rank_of_use(b.role);
                     });
  }
  for (const TensorRole role : model::all_tensor_roles()) {
    if (model::is_per_layer(role) || role == TensorRole::output) continue;
    if (role == TensorRole::token_embedding && !request.embedding) continue;
    if (role == TensorRole::output_norm && !request.output) continue;
    add(role, -1, model.find(role));
  }
  if (request.output) {
    const model::TensorInfo* output = model.find(TensorRole::output);
    add(TensorRole::output, -1,
        output != nullptr ? output : model.find(TensorRole::token_embedding));
  }
  return layout;
}

WeightLayout in_larger_parts(const WeightLayout& layout, Bytes largest) {
  WeightLayout larger{.paths = layout.paths, .tensors = {}};
  std::vector<PlacedTensor>& tensors = larger.tensors;
  std::size_t first = 0;  // of the parts of one matrix
  for (const PlacedTensor& part : layout.tensors) {
    if (part.part == 0) first = tensors.size();
    if (!tensors.empty() && continues(tensors.back(), part) &&
        tensors.back().bytes.size + part.bytes.size <= largest) {
      PlacedTensor& last = tensors.back();
      last.name = joined_name(last.name, part.name);
      last.shape[1] += part.shape[1];
      last.bytes.size += part.bytes.size;
      last.checksums.insert(last.checksums.end(), part.checksums.begin(), part.checksums.end());
    } else {
      tensors.push_back(part);
    }
    for (std::size_t i = first; i < tensors.size(); ++i) {
      tensors[i].part = static_cast<std::uint32_t>(i - first);
      tensors[i].n_parts = static_cast<std::uint32_t>(tensors.size() - first);
    }
  }
  return larger;
}

}  // namespace prima::weights

#include "model/synth_tensor.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include <spdlog/fmt/fmt.h>
#include <unistd.h>

namespace prima::model {
namespace {

constexpr Bytes kCopySize = 8 * kMiB;

// Of the hidden state that the embedding makes. Small against what the layers add, so that a tied
// output layer does not simply repeat the last token.
constexpr float kEmbeddingScale = 0.02f;
// Where embeddings are multiplied by sqrt(n_embd), they cannot be as small without running out of
// their scales' 16 bits; there what the layers add, which is normed, is made larger.
constexpr float kScaledEmbedding = 0.1f;
constexpr float kPostNormGain = 5.0f;
// Standard deviation of the logits: enough that the best token stands out.
constexpr float kLogitScale = 2.0f;
// Of attention scores: enough that a head looks at some tokens more than at others, and that
// answers depend on the whole prompt.
constexpr float kScoreScale = 2.0f;
// Makes up for what averaging over tokens takes from the attention's output.
constexpr float kAttentionGain = 3.0f;
constexpr float kNormSpread = 0.1f;
constexpr float kBiasSpread = 0.1f;

}  // namespace

Distribution distribution_of(const Hyperparameters& model, TensorRole role, std::int64_t columns,
                             bool tied) {
  const float unit = 1.0f / std::sqrt(static_cast<float>(columns));
  const float root_embd = std::sqrt(static_cast<float>(model.n_embd));
  const float embedding =
      model.architecture->scaled_embedding ? kScaledEmbedding / root_embd : kEmbeddingScale;
  // Queries and keys each carry the square root of the scores' scale.
  const float half_score = std::sqrt(kScoreScale);
  switch (role) {
    case TensorRole::token_embedding: return {0.0f, embedding};
    case TensorRole::output: return {0.0f, kLogitScale * unit};
    case TensorRole::output_norm: {
      const float gain = tied ? kLogitScale / (root_embd * embedding) : 1.0f;
      return {gain, gain * kNormSpread};
    }
    case TensorRole::attention_q:
    case TensorRole::attention_k: {
      const float gain = model.architecture->qk_norm ? 1.0f : half_score;
      return {0.0f, gain * unit};
    }
    case TensorRole::attention_q_norm:
    case TensorRole::attention_k_norm: return {half_score, half_score * kNormSpread};
    case TensorRole::attention_output: return {0.0f, kAttentionGain * unit};
    case TensorRole::attention_qkv:
    case TensorRole::attention_v:
    case TensorRole::router:
    case TensorRole::experts_gate:
    case TensorRole::experts_up:
    case TensorRole::experts_down:
    case TensorRole::ffn_gate:
    case TensorRole::ffn_up:
    case TensorRole::ffn_down: return {0.0f, unit};
    case TensorRole::attention_norm:
    case TensorRole::ffn_norm: return {1.0f, kNormSpread};
    case TensorRole::attention_post_norm:
    case TensorRole::ffn_post_norm: return {kPostNormGain, kPostNormGain * kNormSpread};
    case TensorRole::attention_qkv_bias:
    case TensorRole::attention_q_bias:
    case TensorRole::attention_k_bias:
    case TensorRole::attention_v_bias:
    case TensorRole::attention_output_bias:
    case TensorRole::ffn_gate_bias:
    case TensorRole::ffn_up_bias:
    case TensorRole::ffn_down_bias: return {0.0f, kBiasSpread};
    case TensorRole::rope_factors:
    case TensorRole::rope_factors_long:
    case TensorRole::rope_factors_short: return {1.0f, 0.0f};
  }
  return {};
}

Status TensorWriter::write_random(const GgufTensor& tensor, Distribution distribution) {
  PRIMA_RETURN_IF_ERROR(pad_to(tensor.offset));
  const std::int64_t rows = tensor.shape[1] * tensor.shape[2] * tensor.shape[3];
  if (distribution.mean == 0.0f) {
    // Equal rows of the output layer would tie; equal embeddings would be the same token.
    const bool of_tokens = tensor.name == tensor_name(TensorRole::token_embedding, -1) ||
                           tensor.name == tensor_name(TensorRole::output, -1);
    return random_.generate({.name = tensor.name,
                             .type = tensor.type,
                             .columns = tensor.shape[0],
                             .rows = rows,
                             .deviation = distribution.deviation,
                             .distinct_rows = of_tokens},
                            [this](std::span<const std::byte> bytes) { return put(bytes); });
  }
  // Norms: F32 and short.
  Random random(seed_for(seed_, tensor.name));
  std::vector<float> values(static_cast<std::size_t>(tensor.shape[0] * rows));
  for (float& value : values) value = distribution.mean + distribution.deviation * random.normal();
  return put(std::as_bytes(std::span(values)));
}

Status TensorWriter::write_zeros(const GgufTensor& tensor) {
  PRIMA_RETURN_IF_ERROR(pad_to(tensor.offset));
  return put_zeros(tensor.size);
}

Status TensorWriter::write_values(const GgufTensor& tensor, std::span<const float> values) {
  PRIMA_RETURN_IF_ERROR(pad_to(tensor.offset));
  return put(std::as_bytes(values));
}

Status TensorWriter::write_copy(const GgufTensor& tensor, int descriptor, Bytes source_offset,
                                const std::string& source_name) {
  PRIMA_RETURN_IF_ERROR(pad_to(tensor.offset));
  std::vector<std::byte> buffer(std::min(tensor.size, kCopySize));
  for (Bytes done = 0; done < tensor.size;) {
    const Bytes wanted = std::min<Bytes>(tensor.size - done, buffer.size());
    const ssize_t count =
        pread(descriptor, buffer.data(), wanted, static_cast<off_t>(source_offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      return fail(ErrorCode::io,
                  fmt::format("{}: reading tensor {} failed: {}", source_name, tensor.name,
                              count < 0 ? std::strerror(errno) : "the file became shorter"),
                  "Check the file");
    }
    PRIMA_RETURN_IF_ERROR(put(std::span(buffer).first(static_cast<std::size_t>(count))));
    done += static_cast<Bytes>(count);
  }
  return {};
}

Status TensorWriter::put(std::span<const std::byte> bytes) {
  PRIMA_RETURN_IF_ERROR(file_.write(bytes));
  if (progress_ && !progress_(file_.written(), size_)) {
    return fail(ErrorCode::cancelled, "the model was not written: cancelled");
  }
  return {};
}

Status TensorWriter::write_header(std::string_view header) {
  return put(std::as_bytes(std::span(header)));
}

Status TensorWriter::finish() {
  PRIMA_RETURN_IF_ERROR(pad_to(size_));
  return file_.commit();
}

Status TensorWriter::pad_to(Bytes offset) { return put_zeros(offset - file_.written()); }

Status TensorWriter::put_zeros(Bytes count) {
  const std::vector<std::byte> zeros(std::min(count, kCopySize));
  while (count > 0) {
    const Bytes now = std::min<Bytes>(count, zeros.size());
    PRIMA_RETURN_IF_ERROR(put(std::span(zeros).first(now)));
    count -= now;
  }
  return {};
}

}  // namespace prima::model

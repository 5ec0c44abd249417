#include "model/synth.h"

#include <cmath>
#include <numbers>
#include <vector>

#include <spdlog/fmt/fmt.h>

#include "model/gguf_writer.h"
#include "model/mixture_names.h"
#include "model/synth_tensor.h"
#include "model/synth_vocabulary.h"
#include "model/tensor_layout.h"

namespace prima::model {
namespace {

tl::unexpected<Error> bad_option(std::string what, std::string remedy) {
  return fail(ErrorCode::invalid_argument, std::move(what), std::move(remedy));
}

Status check_options(const SynthOptions& options) {
  const Architecture* architecture = find_architecture(options.architecture);
  if (architecture == nullptr) {
    std::string known;
    for (const Architecture& row : architectures()) {
      known += (known.empty() ? "" : ", ") + std::string(row.name);
    }
    return bad_option(fmt::format("'{}' is not a supported architecture", options.architecture),
                      "Use one of " + known);
  }
  if (options.n_vocab < kSmallestVocabulary) {
    return bad_option(
        fmt::format("a vocabulary of {} tokens has no room for all bytes", options.n_vocab),
        fmt::format("Use at least {}", kSmallestVocabulary));
  }
  if (options.n_vocab > kLargestDimension) {
    return bad_option(fmt::format("a vocabulary of {} tokens", options.n_vocab),
                      fmt::format("Use at most {}", kLargestDimension));
  }
  if (options.n_head == 0 || (options.head_dim == 0 && options.n_embd % options.n_head != 0)) {
    return bad_option(fmt::format("an embedding of {} cannot be divided among {} heads",
                                  options.n_embd, options.n_head),
                      "Use a multiple, or set the head size");
  }
  if (options.n_swa > 0 && !architecture->alternating_window) {
    return bad_option(fmt::format("{} has no sliding window", options.architecture),
                      "Leave it out, or use gemma3");
  }
  const bool factors = options.rope_scaling == SynthRopeScaling::llama3 ||
                       options.rope_scaling == SynthRopeScaling::longrope;
  if (factors && !architecture->rope_factors) {
    return bad_option(fmt::format("{} has no rope factors", options.architecture),
                      "Use none, linear or yarn as rope scaling");
  }
  if (options.rope_scaling == SynthRopeScaling::llama3 && architecture->fused_qkv) {
    return bad_option(fmt::format("{} has no Llama 3 rope factors", options.architecture),
                      "Use longrope");
  }
  if (!(options.rope_factor >= 1.0f) || options.rope_factor > 1e6f) {
    return bad_option(fmt::format("{} is no rope factor", options.rope_factor),
                      "Use 1 or more: the number of times the context was stretched");
  }
  if (options.tied && options.n_layer == 0)
    return bad_option("a model needs layers", "Use 1 or more");
  return {};
}

const char* rope_scaling_name(SynthRopeScaling scaling) {
  switch (scaling) {
    case SynthRopeScaling::linear: return "linear";
    case SynthRopeScaling::yarn: return "yarn";
    case SynthRopeScaling::longrope: return "longrope";
    // Llama 3 scales by its factors alone.
    case SynthRopeScaling::llama3:
    case SynthRopeScaling::none: break;
  }
  return "none";
}

std::uint32_t original_context(const SynthOptions& options) {
  if (options.rope_n_ctx_original > 0) return options.rope_n_ctx_original;
  const float context = static_cast<float>(options.n_ctx) / options.rope_factor;
  return std::max(1u, static_cast<std::uint32_t>(context));
}

void add_rope_metadata(const SynthOptions& options, const std::string& prefix, Metadata& metadata) {
  metadata.set(prefix + "rope.freq_base", static_cast<double>(options.rope_base));
  if (options.n_rot > 0)
    metadata.set(prefix + "rope.dimension_count", std::uint64_t{options.n_rot});
  if (options.rope_scaling == SynthRopeScaling::none) return;
  metadata.set(prefix + "rope.scaling.original_context_length",
               std::uint64_t{original_context(options)});
  metadata.set(prefix + "rope.scaling.type", std::string(rope_scaling_name(options.rope_scaling)));
  const auto factor = static_cast<double>(options.rope_factor);
  if (options.rope_scaling == SynthRopeScaling::longrope) {
    // Phi 3's rule, from its paper on LongRoPE.
    const double attention =
        std::sqrt(1.0 + std::log(factor) / std::log(original_context(options)));
    metadata.set(prefix + "rope.scaling.attn_factor", attention);
  } else if (options.rope_scaling != SynthRopeScaling::llama3) {
    metadata.set(prefix + "rope.scaling.factor", factor);
  }
}

Metadata make_metadata(const SynthOptions& options, const Mixture& mixture) {
  constexpr double kRmsEpsilon = 1e-5;
  const std::string prefix = options.architecture + ".";
  Metadata metadata;
  const auto set = [&](const char* key, std::uint64_t value) { metadata.set(prefix + key, value); };
  metadata.set("general.architecture", options.architecture);
  // Not the architecture: llama.cpp looks for certain tokens in models named after Phi 3.
  metadata.set("general.name", fmt::format("Synthetic {} x {}, seed {}", options.n_layer,
                                           options.n_embd, options.seed));
  metadata.set("general.quantization_version", std::uint64_t{2});
  if (const auto number = mixture.pure ? std::nullopt : file_type_of_mixture(mixture.name)) {
    metadata.set("general.file_type", std::uint64_t{*number});
  }
  const std::uint32_t head_dim =
      options.head_dim > 0 ? options.head_dim : options.n_embd / options.n_head;
  const std::uint32_t n_ff =
      options.n_ff > 0 ? options.n_ff
                       : static_cast<std::uint32_t>(align_up(options.n_embd * 11ull / 4, 256));
  set("context_length", options.n_ctx);
  set("embedding_length", options.n_embd);
  set("block_count", options.n_layer);
  set("feed_forward_length", n_ff);
  set("attention.head_count", options.n_head);
  set("attention.head_count_kv", options.n_head_kv > 0 ? options.n_head_kv : options.n_head);
  set("attention.key_length", head_dim);
  set("attention.value_length", head_dim);
  set("vocab_size", options.n_vocab);
  metadata.set(prefix + "attention.layer_norm_rms_epsilon", kRmsEpsilon);
  if (options.n_expert > 0) {
    const std::uint32_t n_ff_expert = options.n_ff_expert > 0 ? options.n_ff_expert : n_ff;
    set("expert_count", options.n_expert);
    set("expert_used_count",
        options.n_expert_used > 0 ? options.n_expert_used : std::min(2u, options.n_expert));
    // Mixtral's experts go by the feed-forward length.
    if (find_architecture(options.architecture)->needs_experts) {
      set("expert_feed_forward_length", n_ff_expert);
    } else {
      set("feed_forward_length", n_ff_expert);
    }
  }
  if (options.n_swa > 0) set("attention.sliding_window", options.n_swa);
  add_rope_metadata(options, prefix, metadata);
  add_synthetic_vocabulary(options.n_vocab, metadata);
  return metadata;
}

bool is_wanted(const SynthOptions& options, const ExpectedTensor& tensor) {
  if (tensor.required) return true;
  switch (tensor.role) {
    case TensorRole::output: return !options.tied;
    case TensorRole::rope_factors: return options.rope_scaling == SynthRopeScaling::llama3;
    case TensorRole::rope_factors_long:
    case TensorRole::rope_factors_short: return options.rope_scaling == SynthRopeScaling::longrope;
    case TensorRole::attention_q_bias:
    case TensorRole::attention_k_bias:
    case TensorRole::attention_v_bias: return options.biases || options.architecture == "qwen2";
    default: return options.biases;
  }
}

// What each frequency is divided by, as Llama 3.1's reference code does: long waves by the factor,
// short ones not at all, those between by something between.
std::vector<float> llama3_factors(const SynthOptions& options, std::int64_t count) {
  constexpr double kLowFrequency = 1.0;
  constexpr double kHighFrequency = 4.0;
  const double context = original_context(options);
  const double factor = options.rope_factor;
  std::vector<float> factors;
  for (std::int64_t i = 0; i < count; ++i) {
    const double exponent = static_cast<double>(i) / static_cast<double>(count);
    const double wave = 2 * std::numbers::pi * std::pow(options.rope_base, exponent);
    double divisor = 1.0;
    if (wave > context / kLowFrequency) {
      divisor = factor;
    } else if (wave > context / kHighFrequency) {
      const double smooth = (context / wave - kLowFrequency) / (kHighFrequency - kLowFrequency);
      divisor = 1.0 / ((1 - smooth) / factor + smooth);
    }
    factors.push_back(static_cast<float>(divisor));
  }
  return factors;
}

// LongRoPE's factors are searched for in training; these rise as they do, from 1 to the factor.
std::vector<float> longrope_factors(const SynthOptions& options, std::int64_t count, bool is_long) {
  std::vector<float> factors;
  for (std::int64_t i = 0; i < count; ++i) {
    const float part = static_cast<float>(i + 1) / static_cast<float>(count);
    factors.push_back(is_long ? 1.0f + (options.rope_factor - 1.0f) * part : 1.0f + 0.05f * part);
  }
  return factors;
}

struct Plan {
  Metadata metadata;
  Hyperparameters model;
  std::vector<ExpectedTensor> roles;
  std::vector<GgufTensor> tensors;  // beside `roles`
  std::string header;
};

// The largest shapes that the loader allows have more bytes in all than 64 bits count.
Status check_total_size(std::span<const GgufTensor> tensors) {
  constexpr double kMost = 1e18;
  double total = 0;
  for (const GgufTensor& tensor : tensors) {
    total += static_cast<double>(ggml_row_size(tensor.type, tensor.shape[0])) *
             static_cast<double>(tensor.shape[1] * tensor.shape[2]);
  }
  if (total <= kMost) return {};
  return bad_option("a model of this shape is larger than any disk", "Choose a smaller shape");
}

Result<Plan> make_plan(const SynthOptions& options) {
  PRIMA_RETURN_IF_ERROR(check_options(options));
  PRIMA_ASSIGN_OR_RETURN(const auto mixture, parse_mixture(options.mixture, options.pure));
  Plan plan;
  plan.metadata = make_metadata(options, mixture);
  // The loader's own checks: what they would refuse is not written in the first place.
  auto model = read_hyperparameters("these options", plan.metadata);
  if (!model) {
    return bad_option(std::move(model.error().what), "Choose others");
  }
  plan.model = *model;
  for (const ExpectedTensor& expected : expected_tensors(plan.model)) {
    if (!is_wanted(options, expected)) continue;
    GgufTensor tensor;
    tensor.name = tensor_name(expected.role, expected.layer);
    tensor.shape = expected.shape;
    tensor.type = tensor_type(mixture, plan.model, expected.role, expected.layer, expected.shape[0],
                              options.tied);
    plan.roles.push_back(expected);
    plan.tensors.push_back(std::move(tensor));
  }
  PRIMA_RETURN_IF_ERROR(check_total_size(plan.tensors));
  plan.header = encode_gguf_header(plan.metadata, plan.tensors);
  return plan;
}

Status write_tensor(const SynthOptions& options, const Plan& plan, std::size_t i,
                    TensorWriter& writer) {
  const GgufTensor& tensor = plan.tensors[i];
  const std::int64_t columns = tensor.shape[0];
  switch (plan.roles[i].role) {
    case TensorRole::rope_factors:
      return writer.write_values(tensor, llama3_factors(options, columns));
    case TensorRole::rope_factors_long:
      return writer.write_values(tensor, longrope_factors(options, columns, true));
    case TensorRole::rope_factors_short:
      return writer.write_values(tensor, longrope_factors(options, columns, false));
    default:
      return writer.write_random(
          tensor, distribution_of(plan.model, plan.roles[i].role, columns, options.tied));
  }
}

}  // namespace

Result<SynthResult> synthesize(const SynthOptions& options, const std::filesystem::path& path,
                               const SynthProgress& progress) {
  PRIMA_ASSIGN_OR_RETURN(const auto plan, make_plan(options));
  const Bytes size = gguf_file_size(plan.header, plan.tensors);
  PRIMA_ASSIGN_OR_RETURN(auto file, AtomicFile::create(path, size));
  TensorWriter writer(file, size, options.seed, progress);
  PRIMA_RETURN_IF_ERROR(writer.write_header(plan.header));
  for (std::size_t i = 0; i < plan.tensors.size(); ++i) {
    PRIMA_RETURN_IF_ERROR(write_tensor(options, plan, i, writer));
  }
  PRIMA_RETURN_IF_ERROR(writer.finish());
  return SynthResult{size, plan.tensors.size()};
}

}  // namespace prima::model

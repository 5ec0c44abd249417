// Follows llama.cpp v0.5.0: src/llama-model.cpp (load_hparams), src/models/<architecture>.cpp
// (load_arch_hparams) and the start of src/llama-context.cpp (rope scaling).
#include "model/hyperparameters.h"

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include <spdlog/fmt/fmt.h>

namespace prima::model {
namespace {

// llama.cpp's LLAMA_MAX_LAYERS and LLAMA_MAX_EXPERTS.
constexpr std::uint32_t kMostLayers = 512;
constexpr std::uint32_t kMostExperts = 1024;
// Far above any model; products of two still fit 64 bits with room to spare.
constexpr std::uint32_t kLongestContext = 1u << 30;

// Reads one model's keys; remembers what errors should name.
class Reader {
 public:
  Reader(std::string_view file_name, const Metadata& metadata, std::string_view architecture)
      : file_name_(file_name), metadata_(metadata), prefix_(std::string(architecture) + ".") {}

  tl::unexpected<Error> bad(ErrorCode code, std::string_view key, std::string_view what,
                            std::string remedy) const {
    return fail(code, fmt::format("{}: {}{} {}", file_name_, prefix_, key, what),
                std::move(remedy));
  }
  tl::unexpected<Error> corrupt(std::string_view key, std::string_view what) const {
    return bad(ErrorCode::corrupt, key, what,
               "Download the file again, or convert the model again");
  }
  tl::unexpected<Error> unsupported(std::string_view key, std::string_view what) const {
    return bad(ErrorCode::unsupported, key, what, "Use another model");
  }

  // From now on a list has to have one element for each layer.
  void set_layers(std::uint32_t n_layer) { n_layer_ = n_layer; }

  bool has(std::string_view key) const { return find(key) != nullptr; }
  const MetadataValue* find(std::string_view key) const {
    return metadata_.find(prefix_ + std::string(key));
  }

  // A number, or one for each layer if all are equal; nullopt if the key is absent.
  Result<std::optional<std::uint32_t>> maybe_count(std::string_view key, std::uint32_t least,
                                                   std::uint32_t most) const {
    const std::string full = prefix_ + std::string(key);
    const MetadataValue* value = metadata_.find(full);
    if (value == nullptr) return std::nullopt;
    auto number = metadata_.find_unsigned(full);
    if (const auto* array = std::get_if<MetadataArray>(value)) {
      PRIMA_ASSIGN_OR_RETURN(number, the_same_for_every_layer(key, *array));
    }
    if (!number) return corrupt(key, "is not a whole number");
    if (*number < least || *number > most) {
      return corrupt(key, fmt::format("is {}, outside {} to {}", *number, least, most));
    }
    return static_cast<std::uint32_t>(*number);
  }

  Result<std::uint32_t> count(std::string_view key, std::uint32_t least, std::uint32_t most) const {
    PRIMA_ASSIGN_OR_RETURN(const auto number, maybe_count(key, least, most));
    if (!number) return corrupt(key, "is missing");
    return *number;
  }

  Result<std::uint32_t> count_or(std::string_view key, std::uint32_t fallback, std::uint32_t least,
                                 std::uint32_t most) const {
    PRIMA_ASSIGN_OR_RETURN(const auto number, maybe_count(key, least, most));
    return number.value_or(fallback);
  }

  Result<float> number_or(std::string_view key, float fallback, double least, double most) const {
    if (!has(key)) return fallback;
    const auto number = metadata_.find_number(prefix_ + std::string(key));
    if (!number || !(*number >= least && *number <= most)) {
      return corrupt(key, fmt::format("is not a number from {} to {}", least, most));
    }
    return static_cast<float>(*number);
  }

 private:
  Result<std::uint64_t> the_same_for_every_layer(std::string_view key,
                                                 const MetadataArray& array) const {
    std::vector<std::uint64_t> values;
    if (const auto* wide = std::get_if<std::vector<std::uint64_t>>(&array)) values = *wide;
    if (const auto* wide = std::get_if<std::vector<std::int64_t>>(&array)) {
      for (const auto value : *wide) {
        if (value < 0) return corrupt(key, "has a negative element");
        values.push_back(static_cast<std::uint64_t>(value));
      }
    }
    if (values.empty() || (n_layer_ != 0 && values.size() != n_layer_)) {
      return corrupt(key,
                     fmt::format("is no list of {} whole numbers, one for each layer", n_layer_));
    }
    for (const auto value : values) {
      if (value == values.front()) continue;
      return unsupported(key, fmt::format("differs between layers ({} and {}), which is not "
                                          "supported",
                                          values.front(), value));
    }
    return values.front();
  }

  std::string_view file_name_;
  const Metadata& metadata_;
  std::string prefix_;
  std::uint32_t n_layer_ = 0;
};

Status read_sizes(Reader& reader, Hyperparameters& model) {
  PRIMA_ASSIGN_OR_RETURN(model.n_ctx_train, reader.count("context_length", 1, kLongestContext));
  PRIMA_ASSIGN_OR_RETURN(model.n_embd, reader.count("embedding_length", 1, kLargestDimension));
  PRIMA_ASSIGN_OR_RETURN(model.n_layer, reader.count("block_count", 1, kMostLayers));
  reader.set_layers(model.n_layer);
  PRIMA_ASSIGN_OR_RETURN(const auto n_nextn,
                         reader.count_or("nextn_predict_layers", 0, 0, kMostLayers));
  if (n_nextn != 0) {
    return reader.unsupported("nextn_predict_layers",
                              "asks for prediction layers, which are not "
                              "supported");
  }
  PRIMA_ASSIGN_OR_RETURN(const float epsilon,
                         reader.number_or("attention.layer_norm_rms_epsilon", -1.0f, 0.0, 1.0));
  if (epsilon < 0.0f) return reader.corrupt("attention.layer_norm_rms_epsilon", "is missing");
  model.rms_epsilon = epsilon;
  return {};
}

Status read_heads(const Reader& reader, Hyperparameters& model) {
  PRIMA_ASSIGN_OR_RETURN(model.n_head, reader.count("attention.head_count", 1, kLargestDimension));
  PRIMA_ASSIGN_OR_RETURN(model.n_head_kv, reader.count_or("attention.head_count_kv", model.n_head,
                                                          1, kLargestDimension));
  if (model.n_head % model.n_head_kv != 0) {
    return reader.corrupt("attention.head_count",
                          fmt::format("is {}, no multiple of the {} heads of keys and values",
                                      model.n_head, model.n_head_kv));
  }
  PRIMA_ASSIGN_OR_RETURN(
      const auto n_key,
      reader.count_or("attention.key_length", model.n_embd / model.n_head, 1, kLargestDimension));
  PRIMA_ASSIGN_OR_RETURN(
      const auto n_value,
      reader.count_or("attention.value_length", model.n_embd / model.n_head, 1, kLargestDimension));
  if (n_key == 0) {
    return reader.corrupt(
        "attention.head_count",
        fmt::format("is {}, more than the embedding length of {}", model.n_head, model.n_embd));
  }
  if (n_key != n_value) {
    return reader.unsupported("attention.value_length",
                              fmt::format("is {}, other than the key length of {}, which is not "
                                          "supported",
                                          n_value, n_key));
  }
  model.head_dim = n_key;
  if (std::uint64_t{model.n_head} * model.head_dim > kLargestDimension) {
    return reader.corrupt("attention.key_length",
                          fmt::format("is {}: absurd with {} heads", model.head_dim, model.n_head));
  }
  for (const char* key : {"attention.key_length_swa", "attention.value_length_swa"}) {
    PRIMA_ASSIGN_OR_RETURN(const auto length, reader.count_or(key, n_key, 1, kLargestDimension));
    if (length != n_key) {
      return reader.unsupported(key,
                                "differs from the length in other layers, which is not "
                                "supported");
    }
  }
  model.attention_scale = 1.0f / std::sqrt(static_cast<float>(model.head_dim));
  return {};
}

Status read_feed_forward(const Reader& reader, Hyperparameters& model) {
  PRIMA_ASSIGN_OR_RETURN(model.n_expert, reader.count_or("expert_count", 0, 0, kMostExperts));
  PRIMA_ASSIGN_OR_RETURN(model.n_expert_used,
                         reader.count_or("expert_used_count", 0, 0, kMostExperts));
  PRIMA_ASSIGN_OR_RETURN(const auto n_ff,
                         reader.count_or("feed_forward_length", 0, 0, kLargestDimension));
  const Architecture& architecture = *model.architecture;
  if (model.n_expert == 0) {
    if (architecture.needs_experts) return reader.corrupt("expert_count", "is missing or 0");
    if (model.n_expert_used != 0) {
      return reader.corrupt("expert_used_count", "is set, but there are no experts");
    }
    if (n_ff == 0) return reader.corrupt("feed_forward_length", "is missing or 0");
    model.n_ff = n_ff;
    return {};
  }
  if (!architecture.experts) {
    return reader.unsupported("expert_count", "is set, but this architecture has no experts");
  }
  if (model.n_expert_used == 0 || model.n_expert_used > model.n_expert) {
    return reader.corrupt("expert_used_count", fmt::format("is {}, outside 1 to {} experts",
                                                           model.n_expert_used, model.n_expert));
  }
  PRIMA_ASSIGN_OR_RETURN(const auto n_groups,
                         reader.count_or("expert_group_count", 0, 0, kMostExperts));
  if (n_groups > 1) {
    return reader.unsupported("expert_group_count",
                              "asks for groups of experts, which are not "
                              "supported");
  }
  // Mixtral's experts have the feed-forward length; Qwen's a length of their own.
  model.n_ff_expert = n_ff;
  if (architecture.needs_experts) {
    PRIMA_ASSIGN_OR_RETURN(model.n_ff_expert,
                           reader.count_or("expert_feed_forward_length", 0, 0, kLargestDimension));
    if (model.n_ff_expert == 0) model.n_ff_expert = n_ff / model.n_expert_used;
  }
  if (model.n_ff_expert == 0) {
    return reader.corrupt(
        architecture.needs_experts ? "expert_feed_forward_length" : "feed_forward_length",
        "is missing or 0");
  }
  return {};
}

std::optional<RopeScaling> rope_scaling_from(std::string_view name) {
  if (name == "none") return RopeScaling::none;
  if (name == "linear") return RopeScaling::linear;
  if (name == "yarn") return RopeScaling::yarn;
  if (name == "longrope") return RopeScaling::longrope;
  return std::nullopt;
}

Status read_rope_scaling(const Reader& reader, Hyperparameters& model) {
  Rope& rope = model.rope;
  rope.scaling = RopeScaling::linear;
  if (const MetadataValue* value = reader.find("rope.scaling.type")) {
    const auto* name = std::get_if<std::string>(value);
    const auto scaling = name == nullptr ? std::nullopt : rope_scaling_from(*name);
    if (!scaling) {
      return reader.unsupported("rope.scaling.type", "is none of none, linear, yarn and longrope");
    }
    rope.scaling = *scaling;
  }
  // The old key counts only where the new one is absent. 0 means 1.
  const char* factor_key =
      reader.has("rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
  PRIMA_ASSIGN_OR_RETURN(const float factor, reader.number_or(factor_key, 0.0f, 0.0, 1e6));
  if (factor != 0.0f && factor < 1e-6f) return reader.corrupt(factor_key, "is absurdly small");
  rope.frequency_scale = factor == 0.0f || rope.scaling == RopeScaling::none ? 1.0f : 1.0f / factor;
  PRIMA_ASSIGN_OR_RETURN(rope.attention_factor,
                         reader.number_or("rope.scaling.attn_factor", 1.0f, 0.0, 1e6));
  if (rope.scaling == RopeScaling::yarn) {
    rope.yarn_ext_factor = 1.0f;
    // ggml multiplies by 1 + 0.1 ln(factor) itself; what llama.cpp hands it has that divided out.
    const float stretch = 1.0f / rope.frequency_scale;
    const float mscale = stretch <= 1.0f ? 1.0f : 0.1f * std::log(stretch) + 1.0f;
    const float correction = 1.0f + 0.1f * std::log(stretch);
    if (!(correction > 0.0f)) return reader.corrupt(factor_key, "is absurdly small for YaRN");
    rope.attention_factor *= mscale * (1.0f / correction);
  }
  if (rope.scaling == RopeScaling::linear && rope.frequency_scale == 1.0f) {
    rope.scaling = RopeScaling::none;
  }
  return {};
}

Status read_rope(const Reader& reader, Hyperparameters& model) {
  Rope& rope = model.rope;
  PRIMA_ASSIGN_OR_RETURN(
      rope.n_rot, reader.count_or("rope.dimension_count", model.head_dim, 0, kLargestDimension));
  const bool partial = model.architecture->partial_rope;
  if (rope.n_rot > model.head_dim || rope.n_rot % 2 != 0 || rope.n_rot == 0 ||
      (!partial && rope.n_rot != model.head_dim)) {
    return reader.corrupt(
        "rope.dimension_count",
        fmt::format("is {}, which does not fit heads of {} elements", rope.n_rot, model.head_dim));
  }
  PRIMA_ASSIGN_OR_RETURN(
      const auto n_rot_windowed,
      reader.count_or("rope.dimension_count_swa", rope.n_rot, 0, kLargestDimension));
  if (n_rot_windowed != rope.n_rot) {
    return reader.unsupported("rope.dimension_count_swa",
                              "differs from rope.dimension_count, which "
                              "is not supported");
  }
  PRIMA_ASSIGN_OR_RETURN(rope.frequency_base,
                         reader.number_or("rope.freq_base", 10000.0f, 1e-3, 1e12));
  PRIMA_ASSIGN_OR_RETURN(rope.n_ctx_original,
                         reader.count_or("rope.scaling.original_context_length", model.n_ctx_train,
                                         0, kLongestContext));
  if (rope.n_ctx_original == 0) rope.n_ctx_original = model.n_ctx_train;
  return read_rope_scaling(reader, model);
}

// The period of a pattern of layers with (true) and without a sliding window, of the kind
// Hyperparameters::swa_period describes.
std::optional<std::uint32_t> period_of(const std::vector<bool>& windowed) {
  const auto n_layer = static_cast<std::uint32_t>(windowed.size());
  for (std::uint32_t period = 1; period <= n_layer + 1; ++period) {
    bool fits = true;
    for (std::uint32_t layer = 0; layer < n_layer && fits; ++layer) {
      fits = windowed[layer] == (layer % period < period - 1);
    }
    if (fits) return period;
  }
  return std::nullopt;
}

Status read_window_pattern(const Reader& reader, Hyperparameters& model) {
  constexpr std::string_view kKey = "attention.sliding_window_pattern";
  constexpr std::uint32_t kGemma3Period = 6;
  const MetadataValue* value = reader.find(kKey);
  const auto* array = value == nullptr ? nullptr : std::get_if<MetadataArray>(value);
  if (array == nullptr) {
    PRIMA_ASSIGN_OR_RETURN(model.swa_period, reader.count_or(kKey, kGemma3Period, 0, kMostLayers));
    if (model.swa_period == 0) model.swa_period = model.n_layer + 1;  // every layer
    return {};
  }
  std::vector<bool> windowed;
  if (const auto* flags = std::get_if<std::vector<bool>>(array)) windowed = *flags;
  if (const auto* numbers = std::get_if<std::vector<std::uint64_t>>(array)) {
    windowed.assign(numbers->begin(), numbers->end());
  }
  if (const auto* numbers = std::get_if<std::vector<std::int64_t>>(array)) {
    windowed.assign(numbers->begin(), numbers->end());
  }
  if (windowed.size() != model.n_layer) {
    return reader.corrupt(
        kKey, fmt::format("has {} elements for {} layers", windowed.size(), model.n_layer));
  }
  const auto period = period_of(windowed);
  if (!period) return reader.unsupported(kKey, "is irregular, which is not supported");
  model.swa_period = *period;
  return {};
}

Status read_sliding_window(const Reader& reader, Hyperparameters& model) {
  // llama.cpp switched Phi's sliding window off (its pull request 13676) and knows none for the
  // others.
  if (!model.architecture->alternating_window) return {};
  PRIMA_ASSIGN_OR_RETURN(model.n_swa,
                         reader.count_or("attention.sliding_window", 0, 0, kLongestContext));
  if (model.n_swa == 0) return {};
  PRIMA_RETURN_IF_ERROR(read_window_pattern(reader, model));
  PRIMA_ASSIGN_OR_RETURN(model.rope.frequency_base_windowed,
                         reader.number_or("rope.freq_base_swa", 10000.0f, 1e-3, 1e12));
  return {};
}

// By llama.cpp's numbers. Models that say nothing, or none, were made to write: the mean of what
// they think of all tokens is their embedding.
Result<Pooling> read_pooling(const Reader& reader) {
  PRIMA_ASSIGN_OR_RETURN(const std::uint32_t number, reader.count_or("pooling_type", 0, 0, 4));
  switch (number) {
    case 2: return Pooling::first;
    case 3: return Pooling::last;
    case 4: return Pooling::rank;
    default: return Pooling::mean;
  }
}

Status read_gemma3_numbers(const Reader& reader, Hyperparameters& model) {
  PRIMA_ASSIGN_OR_RETURN(model.final_logit_softcap,
                         reader.number_or("final_logit_softcapping", 0.0f, 0.0, 1e6));
  // Gemma 3 27B, known by its number of layers, scales by the embedding's share of a head.
  constexpr std::uint32_t kLayersOf27B = 62;
  if (model.n_layer == kLayersOf27B) {
    const std::uint32_t share = model.n_embd / model.n_head;
    if (share == 0) return reader.corrupt("embedding_length", "is less than the number of heads");
    model.attention_scale = 1.0f / std::sqrt(static_cast<float>(share));
  }
  return {};
}

Result<const Architecture*> read_architecture(std::string_view file_name,
                                              const Metadata& metadata) {
  const std::string* name = metadata.find_string("general.architecture");
  if (name == nullptr) {
    return fail(ErrorCode::corrupt,
                fmt::format("{}: metadata general.architecture is missing", file_name),
                "Give a language model, and its first file if it is split");
  }
  const Architecture* architecture = find_architecture(*name);
  if (architecture != nullptr) return architecture;
  std::string known;
  for (const Architecture& row : architectures()) {
    if (!known.empty()) known += ", ";
    known += row.name;
  }
  return fail(ErrorCode::unsupported,
              fmt::format("{}: its architecture is '{}', which is not supported", file_name,
                          name->substr(0, 64)),
              "Use a model of one of these: " + known);
}

}  // namespace

Result<Hyperparameters> read_hyperparameters(std::string_view file_name, const Metadata& metadata) {
  Hyperparameters model;
  PRIMA_ASSIGN_OR_RETURN(model.architecture, read_architecture(file_name, metadata));
  Reader reader(file_name, metadata, model.architecture->name);
  PRIMA_RETURN_IF_ERROR(read_sizes(reader, model));
  PRIMA_RETURN_IF_ERROR(read_heads(reader, model));
  PRIMA_RETURN_IF_ERROR(read_feed_forward(reader, model));
  PRIMA_RETURN_IF_ERROR(read_rope(reader, model));
  PRIMA_RETURN_IF_ERROR(read_sliding_window(reader, model));
  if (model.architecture->alternating_window) {
    PRIMA_RETURN_IF_ERROR(read_gemma3_numbers(reader, model));
  }
  if (const MetadataValue* causal = reader.find("attention.causal")) {
    const bool* is_causal = std::get_if<bool>(causal);
    if (is_causal == nullptr || !*is_causal) {
      return reader.unsupported("attention.causal", "is not true: this model does not write text");
    }
  }

  PRIMA_ASSIGN_OR_RETURN(model.pooling, read_pooling(reader));

  const auto* tokens = metadata.find_strings("tokenizer.ggml.tokens");
  if (tokens == nullptr || tokens->empty() || tokens->size() > kLargestDimension) {
    return fail(ErrorCode::corrupt,
                fmt::format("{}: metadata tokenizer.ggml.tokens, the vocabulary, is missing, empty "
                            "or absurdly long",
                            file_name),
                "Use a conversion of the model that has its tokenizer");
  }
  model.n_vocab = static_cast<std::uint32_t>(tokens->size());
  return model;
}

}  // namespace prima::model

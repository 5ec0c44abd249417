#include "model/mixture.h"

#include <algorithm>
#include <cctype>

#include <spdlog/fmt/fmt.h>

#include "model/mixture_names.h"
#include "model/random_weights.h"
#include "model/tensor_layout.h"

namespace prima::model {
namespace {

struct KnownMixture {
  std::string_view name;
  ggml_type type;
};

constexpr KnownMixture kMixtures[] = {
    {"F32", GGML_TYPE_F32},         {"F16", GGML_TYPE_F16},       {"BF16", GGML_TYPE_BF16},
    {"Q8_0", GGML_TYPE_Q8_0},       {"Q6_K", GGML_TYPE_Q6_K},     {"Q5_K_M", GGML_TYPE_Q5_K},
    {"Q5_K_S", GGML_TYPE_Q5_K},     {"Q5_1", GGML_TYPE_Q5_1},     {"Q5_0", GGML_TYPE_Q5_0},
    {"Q4_K_M", GGML_TYPE_Q4_K},     {"Q4_K_S", GGML_TYPE_Q4_K},   {"Q4_1", GGML_TYPE_Q4_1},
    {"Q4_0", GGML_TYPE_Q4_0},       {"IQ4_NL", GGML_TYPE_IQ4_NL}, {"IQ4_XS", GGML_TYPE_IQ4_XS},
    {"Q3_K_L", GGML_TYPE_Q3_K},     {"Q3_K_M", GGML_TYPE_Q3_K},   {"Q3_K_S", GGML_TYPE_Q3_K},
    {"IQ3_M", GGML_TYPE_IQ3_S},     {"IQ3_S", GGML_TYPE_IQ3_S},   {"IQ3_XS", GGML_TYPE_IQ3_S},
    {"IQ3_XXS", GGML_TYPE_IQ3_XXS}, {"Q2_K", GGML_TYPE_Q2_K},     {"Q2_K_S", GGML_TYPE_Q2_K},
    {"IQ2_M", GGML_TYPE_IQ2_S},     {"IQ2_S", GGML_TYPE_IQ2_XS},  {"IQ2_XS", GGML_TYPE_IQ2_XS},
    {"IQ2_XXS", GGML_TYPE_IQ2_XXS}, {"IQ1_M", GGML_TYPE_IQ1_M},   {"IQ1_S", GGML_TYPE_IQ1_S},
    {"TQ2_0", GGML_TYPE_TQ2_0},     {"TQ1_0", GGML_TYPE_TQ1_0},
};

std::optional<ggml_type> find_type(std::string_view name) {
  for (int number = 0; number < GGML_TYPE_COUNT; ++number) {
    const auto type = static_cast<ggml_type>(number);
    if (ggml_blck_size(type) > 0 && is_quantizable(type) && type_name(type) == name) return type;
  }
  return std::nullopt;
}

// What the quantizer's rules look at.
struct Place {
  std::string_view mixture;
  const Hyperparameters& model;
  int layer;

  bool is(std::initializer_list<std::string_view> names) const {
    return std::find(names.begin(), names.end(), mixture) != names.end();
  }
  bool eight_experts() const { return model.n_expert == 8; }
  bool widely_shared_values() const { return model.n_head / model.n_head_kv >= 4; }
  int n_layer() const { return static_cast<int>(model.n_layer); }
  bool in_first(int part) const { return layer < n_layer() / part; }
  // The layers in which more bits pay most: the first and last eighth, and every third between.
  bool more_bits() const {
    const int eighth = n_layer() / 8;
    return layer < eighth || layer >= 7 * n_layer() / 8 || (layer - eighth) % 3 == 2;
  }
  // 80 layers with shared values: Llama 2 and 3 70B, Qwen2 72B.
  bool is_70b() const {
    const bool named = model.architecture->name == "llama" || model.architecture->name == "qwen2";
    const bool shared = model.architecture->name == "qwen2" || model.n_head != model.n_head_kv;
    return named && n_layer() == 80 && shared;
  }
};

bool below_three_bits(const Place& at) {
  return at.is({"IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ1_S", "IQ1_M"});
}

ggml_type output_type(const Place& at, ggml_type type) {
  if (below_three_bits(at) || at.is({"IQ3_XXS"})) return GGML_TYPE_Q5_K;
  return type == GGML_TYPE_Q8_0 ? type : GGML_TYPE_Q6_K;
}

ggml_type embedding_type(const Place& at, ggml_type type) {
  if (at.is({"IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"})) return GGML_TYPE_Q2_K;
  if (at.is({"IQ2_S", "IQ2_M", "IQ3_XXS"})) return GGML_TYPE_IQ3_S;
  if (at.is({"TQ1_0", "TQ2_0"})) return GGML_TYPE_Q4_K;
  return type;
}

ggml_type below_three_bits_type(const Place& at, TensorRole role, ggml_type type) {
  const bool two_and_a_half = at.is({"IQ2_S", "IQ2_M"});
  switch (role) {
    case TensorRole::attention_v:
    case TensorRole::attention_qkv:
      if (at.widely_shared_values() || at.model.n_expert >= 4) return GGML_TYPE_Q4_K;
      return two_and_a_half ? GGML_TYPE_IQ3_S : GGML_TYPE_Q2_K;
    case TensorRole::attention_k: return at.eight_experts() ? GGML_TYPE_Q4_K : type;
    case TensorRole::ffn_down:
    case TensorRole::experts_down:
      if (!at.in_first(8)) return type;
      return two_and_a_half ? GGML_TYPE_IQ3_S : GGML_TYPE_Q2_K;
    case TensorRole::attention_output:
      if (at.eight_experts()) return GGML_TYPE_Q5_K;
      if (at.is({"IQ1_S", "IQ1_M"})) return GGML_TYPE_IQ2_XXS;
      return two_and_a_half ? GGML_TYPE_IQ3_S : type;
    default: return type;
  }
}

ggml_type value_type(const Place& at, ggml_type type) {
  const bool shared = at.widely_shared_values();
  if (at.is({"Q2_K"})) type = shared ? GGML_TYPE_Q4_K : GGML_TYPE_Q3_K;
  if (at.is({"Q2_K_S", "IQ3_XXS", "IQ3_XS", "IQ3_S"}) && shared) type = GGML_TYPE_Q4_K;
  if (at.is({"IQ3_M"})) type = GGML_TYPE_Q4_K;
  if (at.is({"Q3_K_M"})) type = at.layer < 2 ? GGML_TYPE_Q5_K : GGML_TYPE_Q4_K;
  if (at.is({"Q3_K_L"})) type = GGML_TYPE_Q5_K;
  if (at.is({"IQ4_NL", "IQ4_XS"}) && shared) type = GGML_TYPE_Q5_K;
  if (at.is({"Q4_K_M", "Q5_K_M"}) && at.more_bits()) type = GGML_TYPE_Q6_K;
  if (at.is({"Q4_K_S"}) && at.layer < 4) type = GGML_TYPE_Q5_K;
  if (at.is_70b() && (type == GGML_TYPE_Q3_K || type == GGML_TYPE_Q4_K)) type = GGML_TYPE_Q5_K;
  return at.eight_experts() ? GGML_TYPE_Q8_0 : type;
}

ggml_type key_or_query_type(const Place& at, TensorRole role, ggml_type type) {
  if (role == TensorRole::attention_k && at.eight_experts()) return GGML_TYPE_Q8_0;
  if (at.is({"IQ3_XS"})) return GGML_TYPE_IQ3_XXS;
  if (at.is({"IQ3_XXS"})) return GGML_TYPE_IQ2_S;
  return type;
}

ggml_type down_type(const Place& at, ggml_type type) {
  if (at.is({"Q2_K"})) return GGML_TYPE_Q3_K;
  if (at.is({"Q2_K_S"}) && at.in_first(8)) return GGML_TYPE_Q4_K;
  if (at.is({"Q3_K_M"})) return at.in_first(16) ? GGML_TYPE_Q5_K : GGML_TYPE_Q4_K;
  if (at.is({"IQ3_M"}) && (at.in_first(8) || (at.eight_experts() && at.more_bits()))) {
    return GGML_TYPE_Q4_K;
  }
  if (at.is({"Q3_K_L"})) return GGML_TYPE_Q5_K;
  if (at.is({"Q4_K_M", "Q5_K_M"}) && at.more_bits()) return GGML_TYPE_Q6_K;
  if (at.is({"Q4_K_S"}) && at.in_first(8)) return GGML_TYPE_Q5_K;
  return type;
}

ggml_type attention_output_type(const Place& at, ggml_type type) {
  if (at.eight_experts()) {
    return at.is({"Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M",
                  "IQ3_S", "IQ3_M", "IQ4_XS"})
               ? GGML_TYPE_Q5_K
               : type;
  }
  if (at.is({"Q2_K"})) return GGML_TYPE_Q3_K;
  if (at.is({"IQ3_XXS"})) return GGML_TYPE_IQ3_S;
  if (at.is({"Q3_K_M", "IQ3_M"})) return GGML_TYPE_Q4_K;
  if (at.is({"Q3_K_L"})) return GGML_TYPE_Q5_K;
  return type;
}

// The types of mixtures made with an importance matrix where people use one (below four bits, and
// IQ4), without where not.
ggml_type mixed_type(const Place& at, TensorRole role, ggml_type type, bool tied) {
  if (role == TensorRole::output || (role == TensorRole::token_embedding && tied)) {
    return output_type(at, type);
  }
  if (role == TensorRole::token_embedding) return embedding_type(at, type);
  if (below_three_bits(at)) return below_three_bits_type(at, role, type);
  switch (role) {
    case TensorRole::attention_v:
    case TensorRole::attention_qkv: return value_type(at, type);
    case TensorRole::attention_k:
    case TensorRole::attention_q: return key_or_query_type(at, role, type);
    case TensorRole::ffn_down:
    case TensorRole::experts_down: return down_type(at, type);
    case TensorRole::attention_output: return attention_output_type(at, type);
    case TensorRole::ffn_gate:
    case TensorRole::experts_gate:
    case TensorRole::ffn_up:
    case TensorRole::experts_up:
      return at.is({"IQ3_XS"}) && !at.in_first(8) && at.layer < 7 * at.n_layer() / 8
                 ? GGML_TYPE_IQ3_XXS
                 : type;
    default: return type;
  }
}

ggml_type narrower_type(ggml_type type) {
  switch (type) {
    case GGML_TYPE_IQ1_S:
    case GGML_TYPE_IQ1_M:
    case GGML_TYPE_IQ2_XXS:
    case GGML_TYPE_IQ2_XS:
    case GGML_TYPE_IQ2_S:
    case GGML_TYPE_IQ3_XXS:
    case GGML_TYPE_IQ3_S:
    case GGML_TYPE_IQ4_XS: return GGML_TYPE_IQ4_NL;
    case GGML_TYPE_Q1_0:
    case GGML_TYPE_Q2_0:
    case GGML_TYPE_Q2_K:
    case GGML_TYPE_Q3_K:
    case GGML_TYPE_TQ1_0:
    case GGML_TYPE_TQ2_0:
    case GGML_TYPE_NVFP4: return GGML_TYPE_Q4_0;
    case GGML_TYPE_Q4_K: return GGML_TYPE_Q5_0;
    case GGML_TYPE_Q5_K: return GGML_TYPE_Q5_1;
    case GGML_TYPE_Q6_K: return GGML_TYPE_Q8_0;
    default: return type;
  }
}

ggml_type type_that_fits(ggml_type type, std::int64_t columns) {
  if (columns % ggml_blck_size(type) == 0) return type;
  const ggml_type narrower = narrower_type(type);
  return columns % ggml_blck_size(narrower) == 0 ? narrower : GGML_TYPE_F16;
}

}  // namespace

std::vector<std::string> mixture_names() {
  std::vector<std::string> names;
  for (const KnownMixture& known : kMixtures) names.emplace_back(known.name);
  return names;
}

Result<Mixture> parse_mixture(std::string_view text, bool pure) {
  std::string name(text);
  for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  const auto type = find_type(name);
  if (pure && type) return Mixture{name, *type, true};
  for (const KnownMixture& known : kMixtures) {
    if (known.name == name && !pure) return Mixture{name, known.type, false};
  }
  if (type) return Mixture{name, *type, true};
  return fail(ErrorCode::invalid_argument,
              fmt::format("'{}' is no {}", text.substr(0, 64),
                          pure ? "type that weights can have" : "type or mixture"),
              fmt::format("Use one of {}, or a single type such as Q4_K",
                          fmt::join(mixture_names(), ", ")));
}

ggml_type tensor_type(const Mixture& mixture, const Hyperparameters& model, TensorRole role,
                      int layer, std::int64_t columns, bool tied) {
  // The quantizer leaves routers alone.
  if (is_elementwise(role) || role == TensorRole::router) return GGML_TYPE_F32;
  ggml_type type = mixture.type;
  if (!mixture.pure && ggml_is_quantized(type)) {
    type = mixed_type({mixture.name, model, layer}, role, type, tied);
    const bool is_output =
        role == TensorRole::output || (role == TensorRole::token_embedding && tied);
    if (is_output && columns % ggml_blck_size(mixture.type) != 0) type = GGML_TYPE_Q8_0;
  }
  return type_that_fits(type, columns);
}

}  // namespace prima::model

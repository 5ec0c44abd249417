#include "model/tokenizer_check.h"

#include <array>
#include <cctype>
#include <unordered_map>

#include <spdlog/fmt/fmt.h>

#include "base/log.h"

namespace prima::model {
namespace {

constexpr const char* kOtherConversion = "Use another conversion of the model";
constexpr std::string_view kTokens = "tokenizer.ggml.tokens";

// The numbers of tokenizer.ggml.token_type that matter here.
constexpr std::int64_t kByteToken = 6;

struct Checked {
  std::string_view file_name;
  const Metadata& metadata;

  tl::unexpected<Error> corrupt(std::string_view key, std::string_view what) const {
    return fail(ErrorCode::corrupt, fmt::format("{}: metadata {} {}", file_name, key, what),
                kOtherConversion);
  }
};

// llama.cpp refuses these keys with any other type.
struct ExpectedType {
  std::string_view key;
  MetadataType type;
};

constexpr MetadataType kString{GgufType::string, {}};
constexpr MetadataType kUint32{GgufType::uint32, {}};
constexpr MetadataType kBool{GgufType::boolean, {}};
constexpr MetadataType kStrings{GgufType::array, GgufType::string};
constexpr MetadataType kInt32s{GgufType::array, GgufType::int32};

constexpr ExpectedType kExpectedTypes[] = {
    {"general.name", kString},
    {"general.architecture", kString},
    {"tokenizer.ggml.model", kString},
    {"tokenizer.ggml.pre", kString},
    {"tokenizer.ggml.tokens", kStrings},
    {"tokenizer.ggml.token_type", kInt32s},
    {"tokenizer.ggml.token_type_count", kUint32},
    {"tokenizer.ggml.merges", kStrings},
    {"tokenizer.ggml.bos_token_id", kUint32},
    {"tokenizer.ggml.eos_token_id", kUint32},
    {"tokenizer.ggml.eot_token_id", kUint32},
    {"tokenizer.ggml.eom_token_id", kUint32},
    {"tokenizer.ggml.unknown_token_id", kUint32},
    {"tokenizer.ggml.seperator_token_id", kUint32},
    {"tokenizer.ggml.padding_token_id", kUint32},
    {"tokenizer.ggml.mask_token_id", kUint32},
    {"tokenizer.ggml.fim_pre_token_id", kUint32},
    {"tokenizer.ggml.fim_suf_token_id", kUint32},
    {"tokenizer.ggml.fim_mid_token_id", kUint32},
    {"tokenizer.ggml.fim_pad_token_id", kUint32},
    {"tokenizer.ggml.fim_rep_token_id", kUint32},
    {"tokenizer.ggml.fim_sep_token_id", kUint32},
    {"tokenizer.ggml.prefix_token_id", kUint32},
    {"tokenizer.ggml.suffix_token_id", kUint32},
    {"tokenizer.ggml.middle_token_id", kUint32},
    {"tokenizer.ggml.add_bos_token", kBool},
    {"tokenizer.ggml.add_eos_token", kBool},
    {"tokenizer.ggml.add_sep_token", kBool},
    {"tokenizer.ggml.add_space_prefix", kBool},
    {"tokenizer.ggml.remove_extra_whitespaces", kBool},
    {"tokenizer.ggml.normalizer.lowercase", kBool},
    {"tokenizer.ggml.normalizer.strip_accents", kBool},
    {"tokenizer.ggml.suppress_tokens", kInt32s},
    {"tokenizer.chat_template", kString},
};

std::string type_text(MetadataType type) {
  if (type.type != GgufType::array) return to_string(type.type);
  return fmt::format("array of {}", to_string(type.element));
}

Status check_types(const Checked& model) {
  for (const ExpectedType& expected : kExpectedTypes) {
    const auto type = model.metadata.type(expected.key);
    if (!type || *type == expected.type) continue;
    return model.corrupt(expected.key, fmt::format("is of type {}; {} is expected",
                                                   type_text(*type), type_text(expected.type)));
  }
  constexpr std::string_view kScores = "tokenizer.ggml.scores";
  if (const auto type = model.metadata.type(kScores)) {
    const bool numbers = type->type == GgufType::array &&
                         (type->element == GgufType::float32 || type->element == GgufType::int32);
    if (!numbers) {
      return model.corrupt(
          kScores, fmt::format("is of type {}; array of float32 is expected", type_text(*type)));
    }
  }
  return {};
}

std::size_t element_count(const Metadata& metadata, std::string_view key) {
  const auto& array = std::get<MetadataArray>(*metadata.find(key));
  return std::visit([](const auto& values) { return values.size(); }, array);
}

Status check_lengths(const Checked& model, std::size_t n_tokens) {
  for (const std::string_view key : {"tokenizer.ggml.scores", "tokenizer.ggml.token_type"}) {
    if (model.metadata.find(key) == nullptr) continue;
    const std::size_t n = element_count(model.metadata, key);
    if (n == n_tokens) continue;
    return model.corrupt(key, fmt::format("has {} elements for {} tokens", n, n_tokens));
  }
  return {};
}

// What llama.cpp calls an empty token.
std::string loaded_text(const std::string& token, std::size_t id) {
  return token.empty() ? fmt::format("[EMPTY_{}]", id) : token;
}

using TokenIds = std::unordered_map<std::string, std::size_t>;

Result<TokenIds> check_distinct(const Checked& model, const std::vector<std::string>& tokens) {
  TokenIds ids;
  ids.reserve(tokens.size());
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    const auto [found, is_new] = ids.emplace(loaded_text(tokens[id], id), id);
    if (is_new) continue;
    return model.corrupt(kTokens,
                         fmt::format("has the same text for tokens {} and {}", found->second, id));
  }
  return ids;
}

bool is_byte_text(std::string_view text) {
  return text.size() == 6 && text.starts_with("<0x") && text.ends_with('>') &&
         std::isxdigit(static_cast<unsigned char>(text[3])) &&
         std::isxdigit(static_cast<unsigned char>(text[4]));
}

Status check_byte_tokens(const Checked& model, const std::vector<std::string>& tokens) {
  const MetadataValue* value = model.metadata.find("tokenizer.ggml.token_type");
  if (value == nullptr) return {};
  const auto& types = std::get<std::vector<std::int64_t>>(std::get<MetadataArray>(*value));
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    if (types[id] != kByteToken || is_byte_text(tokens[id])) continue;
    return model.corrupt(kTokens,
                         fmt::format("gives byte token {} a text other than '<0xNN>'", id));
  }
  return {};
}

// Text that no word piece covers is written byte by byte, and llama.cpp throws where a byte has no
// token.
Status check_every_byte_has_a_token(const Checked& model, const TokenIds& ids) {
  for (int byte = 0; byte < 256; ++byte) {
    if (ids.contains(fmt::format("<0x{:02X}>", byte))) continue;
    if (ids.contains(std::string(1, static_cast<char>(byte)))) continue;
    return model.corrupt(kTokens, fmt::format("has no token for byte 0x{:02X}", byte));
  }
  return {};
}

// llama.cpp's defaults, which depend on the kind of tokenizer.
struct Defaults {
  std::int64_t bos = -1;
  std::int64_t eos = -1;
  bool add_bos = false;
};

Defaults defaults_of(std::string_view kind, std::string_view pre) {
  if (kind == "llama") return {.bos = 1, .eos = 2, .add_bos = true};
  Defaults defaults{.bos = 11, .eos = 11, .add_bos = false};
  constexpr std::array kAddingBos = {
      std::string_view("llama3"),   std::string_view("llama-v3"),  std::string_view("llama-bpe"),
      std::string_view("falcon3"),  std::string_view("falcon-h1"), std::string_view("pixtral"),
      std::string_view("midm-2.0"), std::string_view("lfm2"),      std::string_view("jina-v5-nano"),
      std::string_view("tekken"),   std::string_view("chameleon")};
  for (const auto name : kAddingBos) defaults.add_bos = defaults.add_bos || pre == name;
  if (pre == "glm4" || pre == "chatglm-bpe") defaults.bos = -1;
  return defaults;
}

// The id in effect: the file's if it is one, else the default if that is one, else -1.
Result<std::int64_t> special_id(const Checked& model, std::string_view key, std::int64_t fallback,
                                std::size_t n_tokens) {
  const auto id = model.metadata.find_unsigned(key);
  if (!id) return fallback < static_cast<std::int64_t>(n_tokens) ? fallback : -1;
  if (*id < n_tokens) return static_cast<std::int64_t>(*id);
  return model.corrupt(key,
                       fmt::format("is {}, outside the vocabulary of {} tokens", *id, n_tokens));
}

Status check_special_tokens(const Checked& model, std::string_view kind, std::size_t n_tokens) {
  const std::string* pre = model.metadata.find_string("tokenizer.ggml.pre");
  const Defaults defaults = defaults_of(kind, pre == nullptr ? "" : *pre);
  PRIMA_ASSIGN_OR_RETURN(const auto bos,
                         special_id(model, "tokenizer.ggml.bos_token_id", defaults.bos, n_tokens));
  PRIMA_ASSIGN_OR_RETURN(const auto eos,
                         special_id(model, "tokenizer.ggml.eos_token_id", defaults.eos, n_tokens));
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id",
                          "tokenizer.ggml.unknown_token_id"}) {
    PRIMA_RETURN_IF_ERROR(special_id(model, key, -1, n_tokens));
  }
  // Not used to generate, and out of range in models that people run: llama.cpp leaves them out.
  for (const char* key : {"tokenizer.ggml.padding_token_id", "tokenizer.ggml.seperator_token_id",
                          "tokenizer.ggml.mask_token_id"}) {
    if (const auto id = model.metadata.find_unsigned(key); id && *id >= n_tokens) {
      log::debug("{}: {} is {}, outside the vocabulary; it is ignored", model.file_name, key, *id);
    }
  }
  const auto asked = [&](std::string_view key, bool fallback) {
    const MetadataValue* value = model.metadata.find(key);
    return value == nullptr ? fallback : std::get<bool>(*value);
  };
  if (bos < 0 && asked("tokenizer.ggml.add_bos_token", defaults.add_bos)) {
    return model.corrupt("tokenizer.ggml.bos_token_id",
                         "is missing, though every text is to begin with that token");
  }
  if (eos < 0 && asked("tokenizer.ggml.add_eos_token", false)) {
    return model.corrupt("tokenizer.ggml.eos_token_id",
                         "is missing, though every text is to end with that token");
  }
  return {};
}

// llama.cpp looks these up by name in models that are called Phi 3, and throws where one is
// missing.
Status check_phi3_tokens(const Checked& model, const TokenIds& ids) {
  const std::string* name = model.metadata.find_string("general.name");
  if (name == nullptr) return {};
  std::string lower = *name;
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (lower.find("phi-3") == std::string::npos && lower.find("phi3") == std::string::npos) {
    return {};
  }
  for (const char* token : {"</s>", "<unk>", "<s>", "<|endoftext|>"}) {
    if (ids.contains(token)) continue;
    return model.corrupt(kTokens,
                         fmt::format("has no {}, though the model is called Phi 3", token));
  }
  return {};
}

}  // namespace

Status check_tokenizer(std::string_view file_name, const Metadata& metadata) {
  const Checked model{file_name, metadata};
  PRIMA_RETURN_IF_ERROR(check_types(model));
  const std::string* kind = metadata.find_string("tokenizer.ggml.model");
  if (kind == nullptr) return model.corrupt("tokenizer.ggml.model", "is missing");
  const bool is_spm = *kind == "llama";
  if (!is_spm && *kind != "gpt2") {
    return fail(ErrorCode::unsupported,
                fmt::format("{}: its tokenizer is of kind '{}', which is not supported", file_name,
                            kind->substr(0, 64)),
                "Use a model with a SentencePiece ('llama') or BPE ('gpt2') tokenizer");
  }
  const auto* tokens = metadata.find_strings(kTokens);
  if (tokens == nullptr || tokens->empty()) return model.corrupt(kTokens, "is missing or empty");
  if (!is_spm && metadata.find("tokenizer.ggml.merges") == nullptr) {
    return model.corrupt("tokenizer.ggml.merges", "is missing; a BPE tokenizer needs it");
  }
  PRIMA_RETURN_IF_ERROR(check_lengths(model, tokens->size()));
  PRIMA_ASSIGN_OR_RETURN(const auto ids, check_distinct(model, *tokens));
  PRIMA_RETURN_IF_ERROR(check_byte_tokens(model, *tokens));
  if (is_spm) PRIMA_RETURN_IF_ERROR(check_every_byte_has_a_token(model, ids));
  PRIMA_RETURN_IF_ERROR(check_phi3_tokens(model, ids));
  return check_special_tokens(model, *kind, tokens->size());
}

}  // namespace prima::model

#include "cli/model_report.h"

#include <algorithm>
#include <map>
#include <vector>

#include <nlohmann/json.hpp>
#include <spdlog/fmt/fmt.h>

#include "base/printable.h"
#include "model/mixture_names.h"

namespace prima::cli {
namespace {

using model::Hyperparameters;
using model::ModelFile;
using model::RopeScaling;
using model::TensorInfo;
using model::TensorRole;

struct TypeShare {
  std::string name;
  std::size_t tensors = 0;
  Bytes bytes = 0;
};

// The largest share first.
std::vector<TypeShare> type_shares(const ModelFile& file) {
  std::map<ggml_type, TypeShare> by_type;
  for (const TensorInfo& tensor : file.tensors()) {
    TypeShare& share = by_type[tensor.type];
    share.name = model::type_name(tensor.type);
    share.tensors += 1;
    share.bytes += tensor.bytes.size;
  }
  std::vector<TypeShare> shares;
  for (auto& [type, share] : by_type) shares.push_back(std::move(share));
  std::sort(shares.begin(), shares.end(),
            [](const TypeShare& a, const TypeShare& b) { return a.bytes > b.bytes; });
  return shares;
}

struct LayerBytes {
  Bytes least = 0;
  Bytes most = 0;
};

LayerBytes layer_bytes(const ModelFile& file) {
  LayerBytes range{file.layer_bytes(0), file.layer_bytes(0)};
  for (std::uint32_t layer = 1; layer < file.hyperparameters().n_layer; ++layer) {
    const Bytes bytes = file.layer_bytes(static_cast<int>(layer));
    range.least = std::min(range.least, bytes);
    range.most = std::max(range.most, bytes);
  }
  return range;
}

Bytes kv_bytes_per_token_f16(const Hyperparameters& numbers) {
  constexpr Bytes kKeysAndValues = 2;
  constexpr Bytes kF16 = 2;
  return Bytes{numbers.n_layer} * numbers.n_embd_kv() * kKeysAndValues * kF16;
}

std::uint32_t windowed_layers(const Hyperparameters& numbers) {
  std::uint32_t count = 0;
  for (std::uint32_t layer = 0; layer < numbers.n_layer; ++layer) {
    if (numbers.has_sliding_window(layer)) ++count;
  }
  return count;
}

const char* rope_scaling_name(const ModelFile& file) {
  if (file.find(TensorRole::rope_factors) != nullptr) return "factors (Llama 3)";
  if (file.find(TensorRole::rope_factors_long) != nullptr) return "longrope";
  switch (file.hyperparameters().rope.scaling) {
    case RopeScaling::none: return "none";
    case RopeScaling::linear: return "linear";
    case RopeScaling::yarn: return "yarn";
    case RopeScaling::longrope: return "longrope";
  }
  return "none";
}

std::string tokenizer_name(const ModelFile& file) {
  const std::string* kind = file.metadata().find_string("tokenizer.ggml.model");
  const std::string* pre = file.metadata().find_string("tokenizer.ggml.pre");
  if (kind == nullptr) return "none";
  return pre == nullptr ? *kind : fmt::format("{} ({})", *kind, *pre);
}

bool has_chat_template(const ModelFile& file) {
  return file.metadata().find_string("tokenizer.chat_template") != nullptr;
}

// Metadata is a stranger's text.
std::string on_one_line(std::string text) {
  text = printable(std::move(text));
  std::replace(text.begin(), text.end(), '\n', '?');
  return text;
}

std::string grouped(std::uint64_t number) {
  std::string digits = std::to_string(number);
  for (auto at = static_cast<std::ptrdiff_t>(digits.size()) - 3; at > 0; at -= 3) {
    digits.insert(static_cast<std::size_t>(at), 1, ',');
  }
  return digits;
}

std::string parameters_text(std::uint64_t count) {
  const auto number = static_cast<double>(count);
  if (number >= 1e9) return fmt::format("{:.2f} billion", number / 1e9);
  if (number >= 1e6) return fmt::format("{:.1f} million", number / 1e6);
  return grouped(count);
}

class Table {
 public:
  void row(std::string_view label, const std::string& value) {
    text_ += fmt::format("{:<20}{}\n", label, on_one_line(value));
  }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

void add_attention(const Hyperparameters& numbers, Table& table) {
  table.row("attention heads", fmt::format("{} of {} elements; {} for keys and values",
                                           numbers.n_head, numbers.head_dim, numbers.n_head_kv));
  if (numbers.n_swa > 0) {
    table.row("sliding window", fmt::format("{} tokens, in {} of {} layers", numbers.n_swa,
                                            windowed_layers(numbers), numbers.n_layer));
  } else {
    table.row("sliding window", "none");
  }
}

void add_feed_forward(const Hyperparameters& numbers, Table& table) {
  if (numbers.n_expert > 0) {
    table.row("experts", fmt::format("{} of {} elements, {} used for each token", numbers.n_expert,
                                     numbers.n_ff_expert, numbers.n_expert_used));
  } else {
    table.row("feed-forward", grouped(numbers.n_ff));
  }
}

void add_rope(const ModelFile& file, Table& table) {
  const auto& rope = file.hyperparameters().rope;
  const std::string name = rope_scaling_name(file);
  std::string text = fmt::format("base {}, scaling {}", rope.frequency_base, name);
  if (rope.frequency_scale != 1.0f) text += fmt::format(" by {:.4g}", 1.0f / rope.frequency_scale);
  if (name != "none") text += fmt::format(", original context {}", rope.n_ctx_original);
  table.row("rope", text);
}

}  // namespace

std::string model_table(const ModelFile& file) {
  const Hyperparameters& numbers = file.hyperparameters();
  Table table;
  table.row("name", file.name());
  table.row("architecture", std::string(numbers.architecture->name));
  table.row("parameters", parameters_text(file.parameter_count()));
  table.row("size", format_bytes(file.weight_bytes()));
  std::string types;
  for (const TypeShare& share : type_shares(file)) {
    types += fmt::format("{}{} x {} ({})", types.empty() ? "" : ", ", share.tensors, share.name,
                         format_bytes(share.bytes));
  }
  table.row("quantization", fmt::format("{}: {}", file.mixture(), types));
  table.row("layers", std::to_string(numbers.n_layer));
  const LayerBytes layers = layer_bytes(file);
  table.row("layer size",
            layers.least == layers.most
                ? format_bytes(layers.least)
                : fmt::format("{} to {}", format_bytes(layers.least), format_bytes(layers.most)));
  table.row("context", fmt::format("{} tokens", grouped(numbers.n_ctx_train)));
  table.row("embedding", grouped(numbers.n_embd));
  add_attention(numbers, table);
  add_feed_forward(numbers, table);
  add_rope(file, table);
  table.row("KV cache (F16)",
            fmt::format("{} per token, {} for the whole context",
                        format_bytes(kv_bytes_per_token_f16(numbers)),
                        format_bytes(kv_bytes_per_token_f16(numbers) * numbers.n_ctx_train)));
  table.row("vocabulary",
            fmt::format("{} tokens, output layer {}", grouped(numbers.n_vocab),
                        file.find(TensorRole::output) != nullptr ? "of its own"
                                                                 : "shared with the embedding"));
  table.row("tokenizer", tokenizer_name(file));
  table.row("chat template", has_chat_template(file) ? "yes" : "no");
  for (std::size_t i = 0; i < file.paths().size(); ++i) {
    table.row(i == 0 ? "files" : "", file.paths()[i].string());
  }
  return table.take();
}

std::string model_json(const ModelFile& file) {
  const Hyperparameters& numbers = file.hyperparameters();
  const LayerBytes layers = layer_bytes(file);
  nlohmann::ordered_json json;
  json["name"] = file.name();
  json["architecture"] = numbers.architecture->name;
  json["parameters"] = file.parameter_count();
  json["weight_bytes"] = file.weight_bytes();
  json["mixture"] = file.mixture();
  for (const TypeShare& share : type_shares(file)) {
    json["types"].push_back(
        {{"type", share.name}, {"tensors", share.tensors}, {"bytes", share.bytes}});
  }
  json["layers"] = numbers.n_layer;
  json["layer_bytes_least"] = layers.least;
  json["layer_bytes_most"] = layers.most;
  json["context"] = numbers.n_ctx_train;
  json["embedding"] = numbers.n_embd;
  json["heads"] = numbers.n_head;
  json["kv_heads"] = numbers.n_head_kv;
  json["head_dim"] = numbers.head_dim;
  json["feed_forward"] = numbers.n_ff;
  json["experts"] = numbers.n_expert;
  json["experts_used"] = numbers.n_expert_used;
  json["expert_feed_forward"] = numbers.n_ff_expert;
  json["sliding_window"] = numbers.n_swa;
  json["sliding_window_layers"] = windowed_layers(numbers);
  json["rope_base"] = numbers.rope.frequency_base;
  json["rope_scaling"] = rope_scaling_name(file);
  json["rope_factor"] = 1.0f / numbers.rope.frequency_scale;
  json["rope_original_context"] = numbers.rope.n_ctx_original;
  json["kv_bytes_per_token_f16"] = kv_bytes_per_token_f16(numbers);
  json["vocabulary"] = numbers.n_vocab;
  json["tied_output"] = file.find(TensorRole::output) == nullptr;
  json["tokenizer"] = tokenizer_name(file);
  json["chat_template"] = has_chat_template(file);
  for (const auto& path : file.paths()) json["files"].push_back(path.string());
  constexpr int kIndent = 2;
  return json.dump(kIndent, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace prima::cli

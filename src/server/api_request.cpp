#include "server/api_request.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include <spdlog/fmt/fmt.h>

#include "model/hyperparameters.h"
#include "server/json_fields.h"

namespace prima::server {

namespace {

// As OpenAI has it.
constexpr std::int64_t kMaxTopLogprobs = 20;
constexpr std::size_t kMaxStops = 16;
constexpr double kMaxLogitBias = 100.0;

// Tokens of an answer; no context is longer.
constexpr std::int64_t kMaxTokens = std::numeric_limits<std::int32_t>::max();
constexpr std::size_t kMaxPrompts = 64;

std::optional<text::Token> token_of(const Json& json) {
  if (!json.is_number_integer()) return std::nullopt;
  const auto value = json.get<std::int64_t>();
  if (value < 0 || value > std::numeric_limits<text::Token>::max()) return std::nullopt;
  return static_cast<text::Token>(value);
}

std::optional<std::vector<text::Token>> tokens_of(const Json& json) {
  if (!json.is_array()) return std::nullopt;
  std::vector<text::Token> tokens;
  for (const Json& item : json) {
    const auto token = token_of(item);
    if (!token) return std::nullopt;
    tokens.push_back(*token);
  }
  return tokens;
}

void read_prompts(Fields& fields, const char* name, std::size_t most,
                  std::vector<Prompt>& prompts) {
  const Json* given = fields.find(name);
  constexpr const char* kTypes =
      "must be a string, an array of strings, an array of token ids, or an array of such arrays";
  if (given == nullptr) return fields.wrong(name, "is missing");
  if (given->is_string()) {
    prompts.emplace_back(given->get<std::string>());
  } else if (const auto tokens = tokens_of(*given); tokens && !tokens->empty()) {
    prompts.emplace_back(*tokens);
  } else if (given->is_array() && !given->empty()) {
    if (given->size() > most) {
      return fields.wrong(name,
                          fmt::format("has {} texts, at most {} are taken", given->size(), most));
    }
    for (const Json& item : *given) {
      if (item.is_string()) {
        prompts.emplace_back(item.get<std::string>());
      } else if (auto inner = tokens_of(item)) {
        prompts.emplace_back(std::move(*inner));
      } else {
        fields.wrong(name, kTypes);
      }
    }
  } else {
    fields.wrong(name, kTypes);
  }
}

void read_stops(Fields& fields, std::vector<std::string>& stops) {
  const Json* stop = fields.find("stop");
  if (stop == nullptr) return;
  const Json list = stop->is_array() ? *stop : Json::array({*stop});
  if (list.size() > kMaxStops) {
    return fields.wrong(
        "stop", fmt::format("has {} strings, at most {} are taken", list.size(), kMaxStops));
  }
  for (const Json& item : list) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty()) {
      return fields.wrong("stop", "must be a string or an array of strings, none of them empty");
    }
    stops.push_back(item.get<std::string>());
  }
}

void read_logit_bias(Fields& fields, std::vector<text::LogitBias>& biases) {
  const Json* object = fields.object("logit_bias");
  if (object == nullptr) return;
  for (const auto& [key, value] : object->items()) {
    text::Token token = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token);
    if (error != std::errc() || end != key.data() + key.size() || token < 0) {
      return fields.wrong("logit_bias", "must map token ids to numbers; '" + key + "' is no id");
    }
    const double bias = value.is_number() ? value.get<double>() : NAN;
    if (!(std::abs(bias) <= kMaxLogitBias)) {
      return fields.wrong("logit_bias", "must map token ids to numbers between -100 and 100");
    }
    // The lowest is meant as a ban.
    biases.push_back({token, bias <= -kMaxLogitBias ? -INFINITY : static_cast<float>(bias)});
  }
}

void read_generation(Fields& fields, GenerationRequest& request) {
  fields.read("model", request.model);
  fields.read("stream", request.stream);
  if (const Json* options = fields.object("stream_options")) {
    Fields inner(*options, "stream_options.");
    inner.read("include_usage", request.include_usage);
    if (inner.error()) fields.wrong("stream_options", "has a wrong 'include_usage'");
  }
  std::int64_t n = 1;
  fields.read("n", 1, kMaxChoices, n);
  request.n = static_cast<std::uint32_t>(n);
  for (const char* name : {"max_tokens", "max_completion_tokens"}) {
    std::int64_t most = 0;
    fields.read(name, 1, kMaxTokens, most);
    if (most > 0) request.max_tokens = static_cast<std::uint32_t>(most);
  }
  read_stops(fields, request.stops);
  constexpr std::int64_t kAny = std::int64_t{1} << 62;
  std::int64_t seed = -kAny - 1;
  fields.read("seed", -kAny, kAny, seed);
  if (seed >= -kAny) {
    const auto bits = static_cast<std::uint64_t>(seed);
    request.seed = static_cast<std::uint32_t>(bits ^ (bits >> 32));
  }
  text::SamplerOptions& sampler = request.sampler;
  // OpenAI's defaults, and not to truncate further than asked; Prima's own beside them.
  sampler.temperature = 1.0f;
  sampler.top_p = 1.0f;
  sampler.top_k = 0;
  sampler.min_p = 0.0f;
  fields.read("temperature", 0.0, 2.0, sampler.temperature);
  fields.read("top_p", 0.0, 1.0, sampler.top_p);
  fields.read("min_p", 0.0, 1.0, sampler.min_p);
  std::int64_t top_k = 0;
  fields.read("top_k", 0, 1 << 20, top_k);
  sampler.top_k = static_cast<std::int32_t>(top_k);
  fields.read("frequency_penalty", -2.0, 2.0, sampler.frequency_penalty);
  fields.read("presence_penalty", -2.0, 2.0, sampler.presence_penalty);
  fields.read("repeat_penalty", 0.1, 10.0, sampler.repeat_penalty);
  read_logit_bias(fields, sampler.logit_bias);
  fields.read("ignore_eos", request.ignore_end);
}

void read_response_format(Fields& fields, text::ChatRequest& chat) {
  const Json* format = fields.object("response_format");
  if (format == nullptr) return;
  Fields inner(*format, "response_format.");
  std::string type;
  inner.read("type", type);
  if (type == "text") return;
  if (type == "json_object") {
    const Json* schema = inner.object("schema");  // llama.cpp's way
    chat.json_schema = schema != nullptr ? schema->dump() : R"({"type": "object"})";
  } else if (type == "json_schema") {
    const Json* named = inner.object("json_schema");
    const Json* schema = named != nullptr ? Fields(*named).object("schema") : nullptr;
    if (schema == nullptr) {
      return fields.wrong("response_format", "lacks 'json_schema.schema', an object");
    }
    chat.json_schema = schema->dump();
  } else {
    fields.wrong("response_format", "must have the type text, json_object or json_schema");
  }
}

void read_tools(Fields& fields, text::ChatRequest& chat) {
  Json tools = Json::array();
  if (const Json* given = fields.find("tools")) {
    if (!given->is_array()) return fields.wrong("tools", "must be an array");
    for (std::size_t i = 0; i < given->size(); ++i) {
      const Json& tool = (*given)[i];
      const auto function = tool.is_object() ? tool.find("function") : tool.end();
      const bool named = tool.is_object() && tool.value("type", Json()) == "function" &&
                         function != tool.end() && function->is_object() &&
                         function->contains("name") && (*function)["name"].is_string();
      if (!named) {
        return fields.wrong("tools[" + std::to_string(i) + "]",
                            "must be of the type function and have a function with a name");
      }
      if (function->contains("parameters") && !(*function)["parameters"].is_object()) {
        return fields.wrong("tools[" + std::to_string(i) + "].function.parameters",
                            "must be an object: a JSON schema");
      }
      tools.push_back(tool);
      // Templates and grammars want one; without it the function takes nothing.
      if (!function->contains("parameters")) {
        tools.back()["function"]["parameters"] = {{"type", "object"},
                                                  {"properties", Json::object()}};
      }
    }
  }
  if (const Json* choice = fields.find("tool_choice")) {
    const Json* function =
        choice->is_object() && choice->contains("function") ? &(*choice)["function"] : nullptr;
    if (*choice == "auto") {
      chat.tool_choice = text::ToolChoice::automatic;
    } else if (*choice == "none") {
      chat.tool_choice = text::ToolChoice::none;
    } else if (*choice == "required") {
      chat.tool_choice = text::ToolChoice::required;
    } else if (function != nullptr && function->is_object() && function->contains("name")) {
      // One function by name: the only one there is, and required.
      Json named = Json::array();
      for (const Json& tool : tools) {
        if (tool["function"]["name"] == (*function)["name"]) named.push_back(tool);
      }
      if (named.empty()) return fields.wrong("tool_choice", "names a function not among the tools");
      tools = std::move(named);
      chat.tool_choice = text::ToolChoice::required;
    } else {
      return fields.wrong("tool_choice", "must be none, auto, required, or name a function");
    }
    if (chat.tool_choice == text::ToolChoice::required && tools.empty()) {
      return fields.wrong("tool_choice", "requires a tool, but there are no 'tools'");
    }
  }
  chat.parallel_tool_calls = true;
  fields.read("parallel_tool_calls", chat.parallel_tool_calls);
  if (!tools.empty()) chat.tools = tools.dump();
}

void read_messages(Fields& fields, text::ChatRequest& chat) {
  const Json* messages = fields.find("messages");
  if (messages == nullptr || !messages->is_array() || messages->empty()) {
    return fields.wrong("messages", "must be an array of at least one message");
  }
  for (std::size_t i = 0; i < messages->size(); ++i) {
    const Json& message = (*messages)[i];
    const std::string name = "messages[" + std::to_string(i) + "]";
    if (!message.is_object()) return fields.wrong(name, "must be an object");
    const auto role = message.find("role");
    if (role == message.end() || !role->is_string()) {
      return fields.wrong(name + ".role", "must be a string: system, user, assistant or tool");
    }
    const auto content = message.find("content");
    const bool has_content = content != message.end() && !content->is_null();
    if (has_content && !content->is_string() && !content->is_array()) {
      return fields.wrong(name + ".content", "must be a string or an array of parts");
    }
    if (!has_content && !message.contains("tool_calls")) {
      return fields.wrong(name + ".content", "is missing");
    }
    if (!has_content || content->is_string()) continue;
    for (const Json& part : *content) {
      if (!part.is_object() || part.value("type", Json()) != "text" || !part.contains("text") ||
          !part["text"].is_string()) {
        return fields.wrong(name + ".content",
                            "may have parts of the type text only: the model reads nothing else");
      }
    }
  }
  chat.messages = messages->dump();
}

template <typename T>
ApiResult<T> checked(const Fields& fields, T& request) {
  if (fields.error()) return tl::unexpected(*fields.error());
  return std::move(request);
}

}  // namespace

ApiResult<ChatCompletionRequest> parse_chat_completion(std::string_view body) {
  const auto json = parse_object(body);
  if (!json) return tl::unexpected(json.error());
  Fields fields(*json);
  ChatCompletionRequest request;
  read_messages(fields, request.chat);
  read_generation(fields, request.generation);
  bool logprobs = false;
  fields.read("logprobs", logprobs);
  std::int64_t top_logprobs = 0;
  fields.read("top_logprobs", 0, kMaxTopLogprobs, top_logprobs);
  if (top_logprobs > 0 && !logprobs) fields.wrong("top_logprobs", "needs 'logprobs' to be true");
  if (logprobs) {
    request.generation.top_probabilities = static_cast<std::uint32_t>(top_logprobs);
  }
  read_response_format(fields, request.chat);
  read_tools(fields, request.chat);
  if (!request.chat.tools.empty() && !request.chat.json_schema.empty() &&
      request.chat.tool_choice != text::ToolChoice::none) {
    fields.wrong("response_format", "cannot be given together with 'tools'");
  }
  return checked(fields, request);
}

ApiResult<CompletionRequest> parse_completion(std::string_view body) {
  const auto json = parse_object(body);
  if (!json) return tl::unexpected(json.error());
  Fields fields(*json);
  CompletionRequest request;
  read_generation(fields, request.generation);
  std::int64_t logprobs = -1;
  fields.read("logprobs", 0, kMaxTopLogprobs, logprobs);
  if (logprobs >= 0) request.generation.top_probabilities = static_cast<std::uint32_t>(logprobs);
  fields.read("echo", request.echo);
  if (fields.find("suffix") != nullptr) fields.wrong("suffix", "is not supported");
  std::int64_t best_of = 1;
  fields.read("best_of", 1, kMaxChoices, best_of);
  if (best_of > request.generation.n) fields.wrong("best_of", "may not be more than 'n'");

  read_prompts(fields, "prompt", kMaxPrompts, request.prompts);
  return checked(fields, request);
}

ApiResult<EmbeddingRequest> parse_embedding(std::string_view body) {
  const auto json = parse_object(body);
  if (!json) return tl::unexpected(json.error());
  Fields fields(*json);
  EmbeddingRequest request;
  fields.read("model", request.model);
  read_prompts(fields, "input", kMaxEmbeddings, request.inputs);
  for (const Prompt& input : request.inputs) {
    const auto* text = std::get_if<std::string>(&input);
    if (text != nullptr && text->empty()) fields.wrong("input", "may not be empty");
  }
  std::string format = "float";
  fields.read("encoding_format", format);
  request.base64 = format == "base64";
  if (!request.base64 && format != "float") {
    fields.wrong("encoding_format", "must be 'float' or 'base64'");
  }
  std::int64_t dimensions = 0;
  fields.read("dimensions", 1, model::kLargestDimension, dimensions);
  if (dimensions > 0) request.dimensions = static_cast<std::uint32_t>(dimensions);
  return checked(fields, request);
}

ApiResult<TokenizeRequest> parse_tokenize(std::string_view body) {
  const auto json = parse_object(body);
  if (!json) return tl::unexpected(json.error());
  Fields fields(*json);
  TokenizeRequest request;
  if (fields.find("content") == nullptr) fields.wrong("content", "is missing");
  fields.read("content", request.content);
  fields.read("add_special", request.add_special);
  fields.read("parse_special", request.parse_special);
  return checked(fields, request);
}

ApiResult<DetokenizeRequest> parse_detokenize(std::string_view body) {
  const auto json = parse_object(body);
  if (!json) return tl::unexpected(json.error());
  Fields fields(*json);
  DetokenizeRequest request;
  const Json* tokens = fields.find("tokens");
  if (auto list = tokens != nullptr ? tokens_of(*tokens) : std::nullopt) {
    request.tokens = std::move(*list);
  } else {
    fields.wrong("tokens", "must be an array of token ids");
  }
  return checked(fields, request);
}

}  // namespace prima::server

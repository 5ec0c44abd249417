#include "cli/run_options.h"

#include <limits>
#include <random>

#include <CLI/CLI.hpp>

#include "cli/text_file.h"

namespace prima::cli {

namespace {

void add_prompt_options(CLI::App& command, RunOptions& options) {
  const char* group = "Prompt";
  auto* prompt = command.add_option("-p,--prompt", options.prompt, "The prompt");
  auto* file = command.add_option("-f,--file", options.prompt_file, "A file that holds the prompt");
  auto* raw = command.add_flag("--raw", options.raw,
                               "Continue the prompt as it stands, without the chat template");
  file->type_name("FILE");
  for (auto* option : {prompt, file, raw}) option->group(group);
}

void add_chat_options(CLI::App& command, RunOptions& options) {
  auto* system = command.add_option("--system", options.system,
                                    "System message: what the model is told to be");
  auto* chat_template = command.add_option("--chat-template", options.chat_template_file,
                                           "A file with a Jinja template, instead of the model's");
  chat_template->type_name("FILE");
  for (auto* option : {system, chat_template}) option->group("Prompt");
}

void add_answer_options(CLI::App& command, RunOptions& options) {
  const char* group = "Answer";
  auto* n = command.add_option("-n,--tokens", options.max_tokens,
                               "Tokens at most; without it, until the model ends or the context "
                               "is full");
  auto* context = command.add_option("-c,--ctx-size", options.context,
                                     "Context: tokens of prompt and answer together (4096, or "
                                     "what the model was trained for)");
  auto* stop = command.add_option("--stop", options.stops,
                                  "Text that ends the answer; may be given several times");
  stop->allow_extra_args(false);
  auto* ignore_end = command.add_flag("--ignore-eos", options.ignore_end,
                                      "Go on where the model would end (for measurements)");
  for (auto* option : {n, context, stop, ignore_end}) option->group(group);
}

void add_sampler_options(CLI::App& command, RunOptions& options) {
  text::SamplerOptions& sampler = options.sampler;
  for (auto* option : {
           command.add_option("--temp", sampler.temperature,
                              "Temperature; 0: always the likeliest token"),
           command.add_option("--top-k", sampler.top_k, "Among the k likeliest; 0: all"),
           command.add_option("--top-p", sampler.top_p,
                              "Among the likeliest that have this probability together; 1: all"),
           command.add_option("--min-p", sampler.min_p,
                              "Among those with this part of the likeliest's probability; 0: all"),
           command.add_option("--repeat-penalty", sampler.repeat_penalty,
                              "Against tokens seen lately; 1: none"),
           command.add_option("--frequency-penalty", sampler.frequency_penalty,
                              "Against tokens, by how often they were seen; 0: none"),
           command.add_option("--presence-penalty", sampler.presence_penalty,
                              "Against tokens seen at all; 0: none"),
           command.add_option("--repeat-last-n", sampler.penalized_tokens,
                              "How many tokens back the penalties look"),
       }) {
    option->group("Sampling")->capture_default_str();
  }
  auto* seed = command.add_option("--seed", options.seed,
                                  "For the same answer again, together with the same prompt");
  auto* grammar = command.add_option("--grammar", options.grammar_file,
                                     "A file with a GBNF grammar that the answer obeys");
  auto* schema = command.add_option("--json-schema", options.json_schema_file,
                                    "A file with a JSON schema that the answer obeys");
  grammar->type_name("FILE");
  schema->type_name("FILE");
  for (auto* option : {seed, grammar, schema}) option->group("Sampling");
}

void add_shared_options(CLI::App& command, RunOptions& options) {
  add_chat_options(command, options);
  add_answer_options(command, options);
  add_sampler_options(command, options);
  add_draft_options(command, options.draft);
  add_device_options(command, options.devices);
}

Status bad(std::string what, std::string remedy) {
  return fail(ErrorCode::invalid_argument, std::move(what), std::move(remedy));
}

}  // namespace

void add_run_options(CLI::App& command, RunOptions& options) {
  command
      .add_option("-m,--model", options.model, "The model: a GGUF file, or the first of a split")
      ->required();
  add_prompt_options(command, options);
  auto* json = command.add_option("--json", options.json,
                                  "Also write tokens, text and figures to this file");
  json->type_name("FILE")->group("Answer");
  add_shared_options(command, options);
}

void add_conversation_options(CLI::App& command, RunOptions& options) {
  command.add_option("-m,--model", options.model,
                     "The model: a GGUF file, or the first of a split");
  add_shared_options(command, options);
}

Status check(const RunOptions& options) {
  if (options.prompt && options.prompt_file) {
    return bad("-p and -f both give a prompt", "Use one of them");
  }
  if (options.max_tokens && *options.max_tokens < 1) {
    return bad("-n " + std::to_string(*options.max_tokens) + " leaves nothing to write",
               "Give 1 or more, or leave -n out to go on until the model ends");
  }
  if (options.max_tokens && *options.max_tokens > std::numeric_limits<std::int32_t>::max()) {
    return bad("-n " + std::to_string(*options.max_tokens) + " is more than any context",
               "Leave -n out to go on until the model ends");
  }
  for (const std::string& stop : options.stops) {
    if (stop.empty()) return bad("--stop \"\" would end every answer", "Give a text");
  }
  if (options.raw && (!options.system.empty() || options.chat_template_file)) {
    return bad("--raw leaves the chat template out, --system and --chat-template need it",
               "Use one or the other");
  }
  if (options.seed && (*options.seed < 0 || *options.seed > 0xFFFFFFFFLL)) {
    return bad("--seed " + std::to_string(*options.seed) + " cannot be", "Give 0 to 4294967295");
  }
  if (options.grammar_file && options.json_schema_file) {
    return bad("--grammar and --json-schema both say what the answer obeys", "Use one of them");
  }
  return check(options.devices);
}

Result<text::SamplerOptions> sampler_options(const RunOptions& options) {
  text::SamplerOptions sampler = options.sampler;
  sampler.seed = options.seed ? static_cast<std::uint32_t>(*options.seed) : std::random_device()();
  if (options.grammar_file) {
    PRIMA_ASSIGN_OR_RETURN(sampler.grammar.gbnf, read_text_file(*options.grammar_file));
    if (sampler.grammar.gbnf.find_first_not_of(" \t\r\n") == std::string::npos) {
      return fail(ErrorCode::invalid_argument, options.grammar_file->string() + " holds no grammar",
                  "Give GBNF with a rule named root, or leave --grammar out");
    }
  }
  if (options.json_schema_file) {
    PRIMA_ASSIGN_OR_RETURN(const std::string schema, read_text_file(*options.json_schema_file));
    PRIMA_ASSIGN_OR_RETURN(sampler.grammar.gbnf, text::grammar_of_json_schema(schema));
  }
  return sampler;
}

}  // namespace prima::cli

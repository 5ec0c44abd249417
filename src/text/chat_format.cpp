#include "text/chat_format.h"

#include <exception>
#include <regex>
#include <string_view>

#include <chat.h>  // llama.cpp's common/chat.h

#include "text/trial.h"

namespace prima::text {

struct AnswerFormat::Parser {
  common_chat_parser_params params;
};

AnswerFormat::AnswerFormat() = default;

Result<ParsedAnswer> AnswerFormat::parse(const std::string& text, bool partial) const {
  ParsedAnswer answer;
  if (is_plain()) {
    answer.content = text;
    return answer;
  }
  try {
    const common_chat_msg message = common_chat_parse(text, partial, parser_->params);
    answer.content = message.render_content();
    answer.reasoning = message.reasoning_content;
    for (const common_chat_tool_call& call : message.tool_calls) {
      answer.tool_calls.push_back({call.name, call.arguments, call.id});
    }
    return answer;
  } catch (const std::exception& error) {
    return fail(ErrorCode::internal,
                std::string("the model's answer is not in its own format: ") + error.what());
  }
}

namespace {

common_chat_templates_inputs inputs_of(const ChatRequest& request) {
  common_chat_templates_inputs inputs;
  inputs.messages = common_chat_msgs_parse_oaicompat(common_json::parse(request.messages));
  if (!request.tools.empty() && request.tool_choice != ToolChoice::none) {
    inputs.tools = common_chat_tools_parse_oaicompat(common_json::parse(request.tools));
  }
  inputs.tool_choice = request.tool_choice == ToolChoice::required
                           ? COMMON_CHAT_TOOL_CHOICE_REQUIRED
                       : request.tool_choice == ToolChoice::none ? COMMON_CHAT_TOOL_CHOICE_NONE
                                                                 : COMMON_CHAT_TOOL_CHOICE_AUTO;
  inputs.parallel_tool_calls = request.parallel_tool_calls;
  inputs.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;
  // A template's own parser costs a dozen renderings, and plain answers need none.
  inputs.force_pure_content = inputs.tools.empty();
  return inputs;
}

// The token that is exactly this text; kNoToken if it takes several.
Result<Token> single_token(const Tokenizer& tokenizer, const std::string& text) {
  PRIMA_ASSIGN_OR_RETURN(const auto tokens,
                         tokenizer.tokenize(text, /*add_special=*/false, SpecialTokens::parsed));
  return tokens.size() == 1 ? tokens.front() : kNoToken;
}

Status add_triggers(const Tokenizer& tokenizer, const common_chat_params& params,
                    Grammar& grammar) {
  for (const common_grammar_trigger& trigger : params.grammar_triggers) {
    switch (trigger.type) {
      case COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN:
        grammar.trigger_tokens.push_back(trigger.token);
        break;
      case COMMON_GRAMMAR_TRIGGER_TYPE_WORD: {
        PRIMA_ASSIGN_OR_RETURN(const Token token, single_token(tokenizer, trigger.value));
        if (token != kNoToken) {
          grammar.trigger_tokens.push_back(token);
        } else {
          grammar.trigger_patterns.push_back(regex_escape(trigger.value));
        }
        break;
      }
      case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN:
        grammar.trigger_patterns.push_back(trigger.value);
        break;
      case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL:
        grammar.trigger_patterns.push_back("^(?:" + trigger.value + ")$");
        break;
    }
  }
  return {};
}

// Where a call is required, llama.cpp's grammar still lets any text come before it: a rule of the
// root that takes characters until the call begins. Models would talk there without end.
std::string without_text_before_calls(const std::string& gbnf) {
  static const std::regex kTextRule("(^|\\n)(root ::= [^\\n]*?) until-[0-9]+\\?");
  return std::regex_replace(gbnf, kTextRule, "$1$2", std::regex_constants::format_first_only);
}

// Where calls may not be parallel, llama.cpp's grammar of some formats lets them be still.
std::string with_one_call(const std::string& gbnf) {
  static const std::regex kSeveral("(^|\\n)(tool-calls ::= \\([^\\n]*\\))\\+");
  return std::regex_replace(gbnf, kSeveral, "$1$2", std::regex_constants::format_first_only);
}

// A grammar of the whole answer begins with what the template has put into the prompt already. It
// reads characters, so any tokens serve whose pieces are just this text, put together; tokenizing
// it would add spaces in some vocabularies.
Result<std::vector<Token>> prefix_tokens(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<Token> tokens;
  while (!text.empty()) {
    Token best = kNoToken;
    std::size_t longest = 0;
    for (Token token = 0; token < tokenizer.n_vocab(); ++token) {
      const std::string piece = tokenizer.piece(token, /*render_special=*/true);
      if (piece.size() <= longest || !text.starts_with(piece)) continue;
      if (tokenizer.is_end_of_generation(token)) continue;
      best = token;
      longest = piece.size();
    }
    if (best == kNoToken) {
      return fail(ErrorCode::unsupported, "the vocabulary cannot spell the template's own words");
    }
    tokens.push_back(best);
    text.remove_prefix(longest);
  }
  return tokens;
}

}  // namespace

Result<ChatPrompt> render_chat(const ChatTemplate& chat_template, const Tokenizer& tokenizer,
                               const ChatRequest& request) {
  const bool has_tools = !request.tools.empty() && request.tool_choice != ToolChoice::none;
  if (has_tools) {
    // Their schemas are a stranger's.
    const auto apply = [&]() -> Status {
      try {
        static_cast<void>(
            common_chat_templates_apply(chat_template.templates(), inputs_of(request)));
      } catch (const std::exception&) {
        // Told below.
      }
      return {};
    };
    PRIMA_RETURN_IF_ERROR(try_in_child("the tools", apply));
  }
  common_chat_params params;
  std::shared_ptr<AnswerFormat::Parser> parser;
  try {
    params = common_chat_templates_apply(chat_template.templates(), inputs_of(request));
    if (has_tools) {
      parser = std::make_shared<AnswerFormat::Parser>();
      parser->params = common_chat_parser_params(params);
      parser->params.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;
      if (!params.parser.empty()) parser->params.parser.load(params.parser);
    }
  } catch (const std::exception& error) {
    return fail(
        ErrorCode::invalid_argument,
        std::string("the messages or tools cannot be put into the model's chat template: ") +
            error.what());
  }
  ChatPrompt prompt;
  prompt.text = params.prompt;
  prompt.stops = params.additional_stops;
  prompt.format.parser_ = parser;
  for (const std::string& special : params.preserved_tokens) {
    PRIMA_ASSIGN_OR_RETURN(const Token token, single_token(tokenizer, special));
    if (token != kNoToken) prompt.shown_specials.insert(token);
  }
  const bool required = request.tool_choice == ToolChoice::required;
  if (parser && required && params.grammar.empty()) {
    return fail(ErrorCode::invalid_argument,
                "the model's chat template knows no tools, so none can be required");
  }
  if (parser && !params.grammar.empty()) {
    prompt.grammar.gbnf = required ? without_text_before_calls(params.grammar) : params.grammar;
    if (!request.parallel_tool_calls) prompt.grammar.gbnf = with_one_call(prompt.grammar.gbnf);
    prompt.grammar.lazy = params.grammar_lazy;
    if (params.grammar_lazy) {
      PRIMA_RETURN_IF_ERROR(add_triggers(tokenizer, params, prompt.grammar));
    } else {
      PRIMA_ASSIGN_OR_RETURN(prompt.grammar.prefix,
                             prefix_tokens(tokenizer, params.generation_prompt));
    }
  }
  if (!parser && !request.json_schema.empty()) {
    PRIMA_ASSIGN_OR_RETURN(prompt.grammar.gbnf, grammar_of_json_schema(request.json_schema));
  }
  return prompt;
}

}  // namespace prima::text

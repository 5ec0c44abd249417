// Errors as values. Functions that can fail for reasons outside the program return Result<T>; an
// Error names the thing that was wrong and what the user can do. Assertions and exceptions are for
// programmers' mistakes only.
//
// Value types; thread-compatible.
#pragma once

#include <string>
#include <utility>

#include <tl/expected.hpp>

namespace prima {

enum class ErrorCode {
  invalid_argument,    // a flag, request or message says something that can't be
  not_found,           // a file, device or name that isn't there
  corrupt,             // a file or message whose content contradicts itself
  unsupported,         // well-formed, but not something this build can do
  resource_exhausted,  // memory, disk, KV cells, VRAM
  deadline_exceeded,   // a wait ended before what it waited for came
  unavailable,         // a device or file was there and is gone
  cancelled,           // the user ended it
  io,                  // the operating system reported an error
  internal,            // a promise inside Prima was broken
};

const char* to_string(ErrorCode code);

struct Error {
  ErrorCode code = ErrorCode::internal;
  std::string what;  // names the thing: "model.gguf: tensor blk.3.ffn_up.weight ends past the file"
  std::string remedy;  // what to do about it: "download the file again"; may be empty

  // "what. Remedy." on one line.
  std::string message() const;
};

template <typename T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

inline tl::unexpected<Error> fail(ErrorCode code, std::string what, std::string remedy = "") {
  return tl::unexpected<Error>(Error{code, std::move(what), std::move(remedy)});
}

}  // namespace prima

// Leaves the enclosing function with the error of `expression`, if it has one.
#define PRIMA_RETURN_IF_ERROR(expression)                                     \
  do {                                                                        \
    if (auto prima_status = (expression); !prima_status)                      \
      return tl::unexpected<::prima::Error>(std::move(prima_status.error())); \
  } while (false)

#define PRIMA_CONCAT_INNER(a, b) a##b
#define PRIMA_CONCAT(a, b) PRIMA_CONCAT_INNER(a, b)

// `declaration` cannot stand in parentheses. NOLINTBEGIN(bugprone-macro-parentheses)
// PRIMA_ASSIGN_OR_RETURN(auto model, ModelFile::open(path));
#define PRIMA_ASSIGN_OR_RETURN(declaration, expression) \
  PRIMA_ASSIGN_OR_RETURN_INNER(PRIMA_CONCAT(prima_result_, __LINE__), declaration, expression)
#define PRIMA_ASSIGN_OR_RETURN_INNER(result, declaration, expression)            \
  auto result = (expression);                                                    \
  if (!result) return tl::unexpected<::prima::Error>(std::move(result.error())); \
  declaration = std::move(*result)
// NOLINTEND(bugprone-macro-parentheses)

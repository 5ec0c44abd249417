#include "cli/exit_code.h"

#include <cstdio>

#include "base/printable.h"

namespace prima::cli {

int report(const Error& error) {
  std::fprintf(stderr, "prima: %s\n", printable(error.message()).c_str());
  switch (error.code) {
    case ErrorCode::invalid_argument: return kUsageError;
    case ErrorCode::cancelled: return kInterrupted;
    default: return kFailure;
  }
}

}  // namespace prima::cli

#include "cli/exit_code.h"

#include <cstdio>

namespace prima::cli {

int report(const Error& error) {
  std::fprintf(stderr, "prima: %s\n", error.message().c_str());
  switch (error.code) {
    case ErrorCode::invalid_argument: return kUsageError;
    case ErrorCode::cancelled: return kInterrupted;
    default: return kFailure;
  }
}

}  // namespace prima::cli

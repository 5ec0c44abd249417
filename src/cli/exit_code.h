// What the program's exit status says.
#pragma once

#include "base/result.h"

namespace prima::cli {

inline constexpr int kSuccess = 0;
inline constexpr int kFailure = 1;        // it could not be done
inline constexpr int kUsageError = 2;     // the command line asks for what cannot be
inline constexpr int kInterrupted = 130;  // Ctrl-C, as shells count it: 128 + SIGINT

// Prints the error on standard error; the exit status that goes with it.
int report(const Error& error);

}  // namespace prima::cli

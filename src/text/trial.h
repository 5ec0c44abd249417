// Work on a stranger's text, tried where it can do no harm: llama.cpp's template engine and grammar
// parser recurse and allocate without bounds, so that a hostile chat template, grammar or schema
// would crash or hang whoever reads it. A child process does the work first, with little memory and
// time, and only what ends well there is done here.
//
// Thread-safe. Where the system has no fork() (trial_none.cpp) nothing is tried.
#pragma once

#include <functional>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "base/units.h"

namespace prima::text {

struct TrialLimits {
  Bytes memory = kGiB;                       // beyond what this process has already
  Duration time = std::chrono::seconds(10);  // real templates and grammars take milliseconds
};

// The status that `work` returned in the child. Fails with invalid_argument, beginning with `what`
// ("the grammar"), if the child crashed, filled its memory or did not end in time. `work` must not
// use other threads of this process: the child has none. `said`, if given, becomes what the work
// wrote to standard error.
Status try_in_child(const char* what, const std::function<Status()>& work,
                    const TrialLimits& limits = {}, std::string* said = nullptr);

}  // namespace prima::text

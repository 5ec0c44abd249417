// A call on a stack as deep as it needs. llama.cpp splits text by std::regex for some vocabularies,
// which recurses once for every character of a word.
//
// Thread-safe.
#pragma once

#include <functional>

#include "base/result.h"
#include "base/units.h"

namespace prima::text {

// Runs `work` on a thread with a stack of that size and waits for it. Fails with resource_exhausted
// if the system refuses such a thread. `work` must not throw.
Status run_on_deep_stack(Bytes stack, const std::function<void()>& work);

}  // namespace prima::text

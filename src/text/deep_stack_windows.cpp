#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include "text/deep_stack.h"

namespace prima::text {

Status run_on_deep_stack(Bytes stack, const std::function<void()>& work) {
  const auto run = [](void* argument) -> DWORD {
    (*static_cast<const std::function<void()>*>(argument))();
    return 0;
  };
  HANDLE thread = CreateThread(nullptr, stack, run, const_cast<std::function<void()>*>(&work),
                               STACK_SIZE_PARAM_IS_A_RESERVATION, nullptr);
  if (thread == nullptr) {
    return fail(ErrorCode::resource_exhausted, "a stack of " + format_bytes(stack));
  }
  WaitForSingleObject(thread, INFINITE);
  CloseHandle(thread);
  return {};
}

}  // namespace prima::text

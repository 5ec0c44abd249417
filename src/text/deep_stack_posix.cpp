#include <cstring>
#include <string>

#include <pthread.h>

#include "text/deep_stack.h"

namespace prima::text {

Status run_on_deep_stack(Bytes stack, const std::function<void()>& work) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  int error = pthread_attr_setstacksize(&attributes, stack);
  pthread_t thread{};
  const auto run = [](void* argument) -> void* {
    (*static_cast<const std::function<void()>*>(argument))();
    return nullptr;
  };
  if (error == 0) {
    error = pthread_create(&thread, &attributes, run, const_cast<std::function<void()>*>(&work));
  }
  pthread_attr_destroy(&attributes);
  if (error != 0) {
    return fail(ErrorCode::resource_exhausted,
                "a stack of " + format_bytes(stack) + ": " + std::strerror(error));
  }
  pthread_join(thread, nullptr);
  return {};
}

}  // namespace prima::text

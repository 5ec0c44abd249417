// In place of uring_reader.cpp where there is no io_uring or no liburing.
#include "weights/reader_backends.h"

namespace prima::weights {

Result<std::unique_ptr<Reader>> open_uring_reader(std::vector<DirectFile>, std::size_t) {
  return fail(ErrorCode::unsupported, "this build of Prima has no io_uring");
}

}  // namespace prima::weights

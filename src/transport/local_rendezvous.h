// How a head and workers of one user on one machine find each other: while a head gathers workers,
// a file in the user's runtime folder names its port. The file is locked as long as the head lives,
// so that one left behind by a killed head is known for what it is.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "base/result.h"
#include "transport/network.h"

namespace prima::transport {

// $XDG_RUNTIME_DIR/prima, else prima-UID in the system's temporary folder; made if it is not there,
// for its owner only. Fails with io, or invalid_argument if it belongs to somebody else.
Result<std::filesystem::path> runtime_folder();

enum class HeadState {
  gathering,  // wants workers
  running,    // has them; can be asked how it is
};

// Announced until the returned object is destroyed.
Result<std::shared_ptr<void>> announce_locally(const std::filesystem::path& folder,
                                               std::uint16_t port,
                                               HeadState state = HeadState::gathering);

// Heads announced now, the newest last.
std::vector<Endpoint> find_local_heads(const std::filesystem::path& folder,
                                       HeadState state = HeadState::gathering);

}  // namespace prima::transport

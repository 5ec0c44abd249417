// The secret that all devices of a cluster share, and the keys made from it.
//
//     code (16 characters, 80 random bits, typed by people)
//       --Argon2id--> stretched key (32 bytes)
//         --BLAKE2b subkeys--> CURVE key pair of listeners, CURVE key pair of links,
//                              authentication key of announcements
//
// Every node derives the same pairs: a listener admits whoever links with the second pair. Both
// public keys are secret from strangers. CURVE adds fresh keys to each connection, so that a key
// that leaks later does not open recordings of earlier traffic.
//
// Value types; thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"

namespace prima::transport {

using Key = std::array<unsigned char, 32>;

struct KeyPair {
  Key public_key{};
  Key secret_key{};
};

struct ClusterKey {
  std::string code;  // 16 characters, without dashes
  Key stretched{};
};

struct DerivedKeys {
  KeyPair listener;
  KeyPair link;
  Key announcement{};
};

// A new random code.
std::string make_code();

// Takes what people type: lower case, dashes, blanks, O for 0, I and L for 1. Fails with
// invalid_argument.
Result<std::string> parse_code(std::string_view typed);

// "ABCD-EFGH-JKMN-PQRS".
std::string format_code(std::string_view code);

// Takes about a tenth of a second and 64 MiB, on purpose: it is what a guess costs.
Result<ClusterKey> stretch(std::string code);

DerivedKeys derive_keys(const ClusterKey& key);

// $XDG_CONFIG_HOME/prima/cluster.key, else ~/.config/prima/cluster.key.
Result<std::filesystem::path> default_key_path();

// The key in the file; a new one, written there, if there is no file. Safe when several processes
// start at once: one of them makes the key and all use it. Fails with io, corrupt, or
// invalid_argument if others may read the file.
Result<ClusterKey> load_or_create_key(const std::filesystem::path& path);

// Replaces whatever key is there, atomically.
Status store_key(const std::filesystem::path& path, const ClusterKey& key);

}  // namespace prima::transport

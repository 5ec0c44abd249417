#include "transport/cluster_key.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <stdexcept>

#include <sodium.h>

namespace prima::transport {
namespace {

// Crockford's base 32: no I, L, O or U. 16 characters of 5 bits are 80 bits.
constexpr std::string_view kAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
constexpr std::size_t kCodeLength = 16;

// The same for every cluster: the code itself is random, so a salt has no two equal codes to tell
// apart, and devices could not agree on one before they can talk.
constexpr char kSalt[] = "prima cluster k1";
static_assert(sizeof(kSalt) - 1 == crypto_pwhash_argon2id_SALTBYTES);

// 64 MiB fits phones; three passes take about a tenth of a second.
constexpr unsigned long long kPasses = 3;
constexpr std::size_t kMemory = 64u << 20;

constexpr char kContext[] = "primakey";
static_assert(sizeof(kContext) - 1 == crypto_kdf_CONTEXTBYTES);
static_assert(crypto_kdf_KEYBYTES == sizeof(Key) && crypto_box_SEEDBYTES == sizeof(Key));

void require_sodium() {
  // Safe to call again; fails only where the system has no source of randomness.
  if (sodium_init() < 0) throw std::runtime_error("libsodium cannot start: no random source");
}

Key subkey(const Key& stretched, std::uint64_t index) {
  Key key{};
  crypto_kdf_derive_from_key(key.data(), key.size(), index, kContext, stretched.data());
  return key;
}

KeyPair key_pair(const Key& seed) {
  KeyPair pair;
  crypto_box_seed_keypair(pair.public_key.data(), pair.secret_key.data(), seed.data());
  return pair;
}

}  // namespace

std::string make_code() {
  require_sodium();
  std::string code(kCodeLength, '0');
  for (char& c : code) c = kAlphabet[randombytes_uniform(kAlphabet.size())];
  return code;
}

Result<std::string> parse_code(std::string_view typed) {
  std::string code;
  for (char c : typed) {
    if (c == '-' || std::isspace(static_cast<unsigned char>(c))) continue;
    c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    if (c == 'O') c = '0';
    if (c == 'I' || c == 'L') c = '1';
    if (kAlphabet.find(c) == std::string_view::npos) {
      return fail(ErrorCode::invalid_argument,
                  std::string("A cluster key has no character '") + c + "'",
                  "Type the key as `prima key` shows it on the other device");
    }
    code.push_back(c);
  }
  if (code.size() != kCodeLength) {
    return fail(ErrorCode::invalid_argument,
                "A cluster key has 16 characters, this has " + std::to_string(code.size()),
                "Type the key as `prima key` shows it on the other device");
  }
  return code;
}

std::string format_code(std::string_view code) {
  std::string formatted;
  for (std::size_t i = 0; i < code.size(); ++i) {
    if (i > 0 && i % 4 == 0) formatted.push_back('-');
    formatted.push_back(code[i]);
  }
  return formatted;
}

Result<ClusterKey> stretch(std::string code) {
  require_sodium();
  ClusterKey key{.code = std::move(code), .stretched = {}};
  if (crypto_pwhash(key.stretched.data(), key.stretched.size(), key.code.data(), key.code.size(),
                    reinterpret_cast<const unsigned char*>(kSalt), kPasses, kMemory,
                    crypto_pwhash_ALG_ARGON2ID13) != 0) {
    return fail(ErrorCode::resource_exhausted, "Making the cluster key needs 64 MiB of memory",
                "Free some and try again");
  }
  return key;
}

DerivedKeys derive_keys(const ClusterKey& key) {
  require_sodium();
  return {.listener = key_pair(subkey(key.stretched, 1)),
          .link = key_pair(subkey(key.stretched, 2)),
          .announcement = subkey(key.stretched, 3)};
}

Result<std::filesystem::path> default_key_path() {
  if (const char* config = std::getenv("XDG_CONFIG_HOME"); config && *config) {
    return std::filesystem::path(config) / "prima" / "cluster.key";
  }
  if (const char* home = std::getenv("HOME"); home && *home) {
    return std::filesystem::path(home) / ".config" / "prima" / "cluster.key";
  }
  return fail(ErrorCode::not_found, "Neither HOME nor XDG_CONFIG_HOME is set",
              "Set one, or give the key file with --key-file");
}

}  // namespace prima::transport

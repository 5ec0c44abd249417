#!/usr/bin/env bash
# cross_aarch64.sh: builds Prima for 64-bit Arm with Debian's cross compiler and runs the tests under
# qemu-user. For Debian on another processor; it adds the architecture arm64 to dpkg.
#
#   CMAKE_BUILD_PARALLEL_LEVEL=1   for a machine that has other work to do
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

NATIVE_PACKAGES="g++-aarch64-linux-gnu qemu-user"
ARM_PACKAGES="
  cppzmq-dev libbenchmark-dev libflatbuffers-dev libgmock-dev libgtest-dev libsodium-dev
  libspdlog-dev libtomlplusplus-dev liburing-dev libzmq3-dev"

command -v apt-get >/dev/null || {
  echo "Error: this script needs Debian's multiarch packages. Elsewhere, configure with a toolchain" \
    "file of your own, like cmake/aarch64-linux-gnu.cmake." >&2
  exit 1
}
tools/setup.sh --no-model

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

wanted=$NATIVE_PACKAGES
for package in $ARM_PACKAGES; do wanted="$wanted $package:arm64"; done
# shellcheck disable=SC2086 # The lists are words, one per package.
if [ "$(dpkg-query -W -f='${db:Status-Status}\n' $wanted 2>/dev/null | grep -cx installed)" -ne "$(wc -w <<<"$wanted")" ]; then
  echo "Installing Debian packages: $(xargs <<<"$wanted")"
  as_root dpkg --add-architecture arm64
  as_root apt-get -qq update
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install --yes --no-install-recommends $wanted
fi

tools/timed.sh "Configuring" cmake --preset aarch64
tools/timed.sh "Building" cmake --build --preset aarch64
ctest --preset aarch64

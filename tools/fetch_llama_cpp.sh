#!/usr/bin/env bash
# Fetches the source of llama.cpp (ggml's kernels, vocabularies, samplers, chat templates) at the
# version Prima is built against. Does nothing where it is already there.
set -euo pipefail
# shellcheck source=fetch.sh
. "$(dirname "${BASH_SOURCE[0]}")/fetch.sh"

REPOSITORY=https://github.com/ggml-org/llama.cpp
# This npm package carries the release as one git bundle.
PACKAGE=node-llama-cpp
PACKAGE_VERSION=3.22.1
INTEGRITY=sha512-bltIipuWmc123H7tMIgDGKSsSrhmhlQYeVUC48XTjVW7XGJJiJJyCdlTMzQ/LiWoPkGDpcL4FviDpgw7qfTiDw==

clone_from_npm_package() {
  fetch_npm_package "$PACKAGE" "$PACKAGE_VERSION" "$INTEGRITY" || return 1
  tar -xzf "$tarball" -C "$scratch" package/llama/gitRelease.bundle
  git clone --quiet "$scratch/package/llama/gitRelease.bundle" "$scratch/llama.cpp" 2>"$scratch/git.log" || {
    cat "$scratch/git.log" >&2
    return 1
  }
  # The bundle is gone in a moment; the clone should name where the code really comes from.
  git -C "$scratch/llama.cpp" remote set-url origin "$REPOSITORY"
}

clone_from_repository() {
  say "Trying $REPOSITORY at $LLAMA_CPP_VERSION instead."
  rm -rf "$scratch/llama.cpp"
  GIT_TERMINAL_PROMPT=0 git -c advice.detachedHead=false clone --quiet --depth 1 \
    --branch "$LLAMA_CPP_VERSION" "$REPOSITORY" "$scratch/llama.cpp"
}

llama_cpp_is_here && exit 0
target=$(llama_cpp_dir)
begin_downloads
llama_cpp_is_here && exit 0

say "Fetching the source of llama.cpp $LLAMA_CPP_VERSION (36 MB)"
clone_from_npm_package || clone_from_repository || fail \
  "the source of llama.cpp $LLAMA_CPP_VERSION could be fetched neither through npm nor from" \
  "$REPOSITORY. Is this machine online? With a checkout of your own, configure with" \
  "-DPRIMA_LLAMA_CPP_DIR=DIR (docs/building.md)."
[ -e "$scratch/llama.cpp/ggml/CMakeLists.txt" ] || fail "what was fetched is not a llama.cpp source tree."

rm -rf "$target" # No ggml/CMakeLists.txt in it, as checked above.
mv "$scratch/llama.cpp" "$target"
say "llama.cpp $LLAMA_CPP_VERSION is in $target"

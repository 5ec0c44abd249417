#!/usr/bin/env bash
# build_llama_cpp.sh: builds llama.cpp's own programs, which Prima is measured beside, from the source
# that Prima itself is built on, and prints the folder they are in. Does nothing where they are there.
#
# They lie beside that source, in ~/.cache/prima or PRIMA_CACHE_DIR, and never in this repository.
set -euo pipefail
# shellcheck source=../tools/fetch.sh
. "$(dirname "${BASH_SOURCE[0]}")/../tools/fetch.sh"

source=$(llama_cpp_dir)
build=$(cache_dir)/llama.cpp-programs-$LLAMA_CPP_VERSION
programs="llama-completion ggml-rpc-server"
llama_cpp_is_here || fail "llama.cpp's source is not at $source. Run tools/setup.sh, which fetches it."

if [ ! -e "$build/complete" ]; then
  say "Building llama.cpp's llama-completion and ggml-rpc-server (once, some minutes)" >&2
  mkdir -p "$build"
  launchers=()
  if command -v ccache >/dev/null; then
    launchers=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  fi
  # The options of the libraries that Prima is built on (cmake/LlamaCpp.cmake), and the programs.
  cmake -S "$source" -B "$build" -G Ninja "${launchers[@]}" -Wno-dev \
    -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DCMAKE_POSITION_INDEPENDENT_CODE=ON \
    -DGGML_OPENMP=ON -DGGML_CUDA=OFF -DGGML_RPC=ON -DGGML_CCACHE=OFF \
    -DLLAMA_BUILD_COMMON=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=ON \
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_CURL=OFF \
    -DLLAMA_OPENSSL=OFF >"$build/lab.log" 2>&1 || fail "configuring llama.cpp failed; see $build/lab.log"
  # shellcheck disable=SC2086 # A list of words.
  cmake --build "$build" --target $programs >>"$build/lab.log" 2>&1 ||
    fail "building llama.cpp failed; see $build/lab.log"
  touch "$build/complete"
fi
printf '%s\n' "$build/bin"

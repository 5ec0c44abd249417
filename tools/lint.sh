#!/usr/bin/env bash
# lint.sh: everything a machine can say about the sources. Formatting, shell scripts, a build with
# clang without warnings, headers that compile alone, clang-tidy. Fails at the first that complains.
#
#   LINT_FILES="src/a.cpp ..."   only these files go through clang-tidy (the slow part)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

missing=
for program in clang++:clang clang-format:clang-format clang-tidy:clang-tidy shellcheck:shellcheck; do
  command -v "${program%%:*}" >/dev/null || missing="$missing ${program##*:}"
done
if [ -n "$missing" ]; then
  echo "Error: 'make lint' also needs:$missing (Debian: apt-get install$missing)." >&2
  exit 1
fi

echo "-- Formatting"
tools/format.sh --check
echo "-- Shell scripts"
git ls-files -z --cached --others --exclude-standard -- '*.sh' .ci/run | xargs -0 shellcheck

echo "-- Build with clang"
cmake --preset clang >/dev/null
cmake --build --preset clang
echo "-- Headers compile alone"
cmake --build --preset clang --target all_verify_interface_header_sets

echo "-- clang-tidy"
# Through a file: a pipe would hide that git failed. The built tree is clang's, so that every flag is
# one that clang-tidy knows and generated headers are there.
if [ -n "${LINT_FILES:-}" ]; then
  # shellcheck disable=SC2086 # A list of words.
  printf '%s\0' $LINT_FILES
else
  git ls-files -z --cached --others --exclude-standard -- 'src/*.cpp'
fi | xargs -0 -n 1 -P "$(getconf _NPROCESSORS_ONLN)" clang-tidy -p build/clang --quiet 2> >(grep -v 'warnings generated\|Suppressed' >&2)
echo "-- Lint is clean"

#!/usr/bin/env bash
# format.sh [--check]: formats Prima's C++ files in place, or fails where one is not formatted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v clang-format >/dev/null || {
  echo "Error: clang-format is not installed (Debian: apt-get install clang-format)." >&2
  exit 1
}
mode=(-i)
[ "${1:-}" = --check ] && mode=(--dry-run --Werror)
# Tracked and new files alike, but nothing git ignores.
git ls-files -z --cached --others --exclude-standard -- '*.h' '*.cpp' | xargs -0 clang-format "${mode[@]}"

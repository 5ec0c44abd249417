#!/usr/bin/env bash
# format.sh [--check]: formats Prima's C++ files in place, or fails where one is not formatted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v clang-format >/dev/null || {
  echo "Error: clang-format is not installed (Debian: apt-get install clang-format)." >&2
  exit 1
}
# Tracked and new files alike, but nothing git ignores.
sources() { git ls-files -z --cached --others --exclude-standard -- '*.h' '*.cpp'; }

if [ "${1:-}" = --check ]; then
  unformatted=$(sources | while IFS= read -r -d '' file; do
    clang-format --dry-run --Werror "$file" 2>/dev/null || printf '  %s\n' "$file"
  done)
  [ -z "$unformatted" ] && exit 0
  printf 'Not formatted ("make format" does it):\n%s\n' "$unformatted" >&2
  exit 1
fi
sources | xargs -0 clang-format -i

#!/usr/bin/env bash
# readme_curl_test.sh PRIMA: runs the curl commands of README.md against a server, each as it stands
# there but for the address. Skipped (77) where curl is missing.
set -euo pipefail
prima=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
command -v curl >/dev/null || {
  echo "Skipped: curl is not installed"
  exit 77
}

# shellcheck source=toy_server.sh
. "$here/toy_server.sh"
start_toy_server "$prima"
address=${url%/v1}

# A command begins with curl at the start of a line and ends at an empty line or the fence.
awk '/^curl / { on = 1 } /^$|^```/ { if (on) print "--end--"; on = 0 } on' \
  "$here/../../README.md" >"$folder/commands"
n=0
failures=0
command=
while IFS= read -r line; do
  if [ "$line" != "--end--" ]; then
    command+=$line$'\n'
    continue
  fi
  n=$((n + 1))
  status=0
  answer=$(bash -c "${command//http:\/\/127.0.0.1:8080/$address}" -- </dev/null 2>/dev/null) || status=$?
  case $answer in
    *'"error"'*) status=1 ;;
    *'"choices"'* | *'"tokens"'* | *prima_ready*) ;;
    *) status=1 ;;
  esac
  [ "$status" -eq 0 ] || {
    failures=$((failures + 1))
    printf 'This command of README.md fails:\n%sIt answers: %s\n' "$command" "$answer"
  }
  command=
done <"$folder/commands"
echo "$n commands, $failures failures"
[ "$n" -ge 4 ] && [ "$failures" -eq 0 ]

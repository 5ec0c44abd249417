#!/usr/bin/env bash
# openai_client_test.sh PRIMA: starts a server on a synthetic model and lets the official openai
# client talk to it. Skipped (77) where node is missing or the client cannot be fetched.
set -euo pipefail
prima=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

command -v node >/dev/null || {
  echo "Skipped: node is not installed (tools/setup.sh installs it)"
  exit 77
}
client=$("$here/../../tools/fetch_openai_client.sh") || {
  echo "Skipped: the openai client is not here and could not be fetched"
  exit 77
}

# shellcheck source=toy_server.sh
. "$here/toy_server.sh"
start_toy_server "$prima" --api-key secret

timeout 240 node "$here/openai_client_test.mjs" "$client" "$url" secret || {
  echo "--- the server said:"
  cat "$folder/log"
  exit 1
}

# SIGTERM: it ends by itself, successfully.
kill -TERM "$server"
status=0
wait "$server" || status=$?
server=
[ "$status" -eq 0 ] || {
  echo "The server ended with status $status"
  cat "$folder/log"
  exit 1
}

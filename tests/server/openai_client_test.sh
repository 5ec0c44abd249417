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

folder=$(mktemp -d)
server=
finish() {
  [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
  rm -rf "$folder"
}
trap finish EXIT

"$prima" model synth --layers 2 --embd 64 --heads 4 --vocab 600 --context 4096 --type F16 \
  -o "$folder/toy.gguf" >/dev/null
"$prima" serve -m "$folder/toy.gguf" --chat-template "$here/tools.jinja" --listen 127.0.0.1:0 \
  --api-key secret 2>"$folder/log" &
server=$!
for _ in $(seq 600); do
  grep -q '^Ready' "$folder/log" && break
  kill -0 "$server" 2>/dev/null || break
  sleep 0.1
done
url=$(sed -nE 's|^Listening on (http://[^,]*),.*|\1|p' "$folder/log")
[ -n "$url" ] && grep -q '^Ready' "$folder/log" || {
  cat "$folder/log"
  exit 1
}

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

# For the tests of this folder, which source it: a server on a synthetic model that ends with the test.
#
# start_toy_server PRIMA [OPTION...]: starts `prima serve` with these options besides and waits until
# it is ready; the test fails, showing the server's log, where it never is. Sets `server`, its process,
# and `url`, which ends in /v1. After that: $folder/log is what it says.

folder=$(mktemp -d)
server=
finish() {
  [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
  rm -rf "$folder"
}
trap finish EXIT

start_toy_server() {
  local prima=$1 tests
  shift
  tests=$(dirname "${BASH_SOURCE[0]}")
  "$prima" model synth --layers 2 --embd 64 --heads 4 --vocab 600 --context 4096 --type F16 \
    -o "$folder/toy.gguf" >/dev/null
  "$prima" serve -m "$folder/toy.gguf" --chat-template "$tests/tools.jinja" --listen 127.0.0.1:0 \
    "$@" 2>"$folder/log" &
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
}

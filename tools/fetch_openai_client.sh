#!/usr/bin/env bash
# Fetches the official openai client for node, for tests, and prints the folder that it is installed
# in. Does nothing else where it is already there.
set -euo pipefail
# shellcheck source=fetch.sh
. "$(dirname "${BASH_SOURCE[0]}")/fetch.sh"

folder=$(openai_client_dir)
if ! openai_client_is_here; then
  {
    begin_downloads
    if ! openai_client_is_here; then
      command -v npm >/dev/null || fail "npm is not installed."
      say "Fetching the openai client for node"
      mkdir "$scratch/client"
      (cd "$scratch/client" && printf '{"private": true}\n' >package.json &&
        npm install "openai@$OPENAI_CLIENT_VERSION" --cache "$scratch/npm" --no-audit --no-fund --loglevel error \
          --fetch-retries 3 --fetch-retry-mintimeout 1000 --fetch-retry-maxtimeout 5000) ||
        fail "npm could not install openai@$OPENAI_CLIENT_VERSION. Is this machine online?"
      rm -rf "$folder"
      mv "$scratch/client" "$folder"
    fi
  } >&2
fi
printf '%s\n' "$folder"

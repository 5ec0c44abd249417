#!/usr/bin/env bash
# bench.sh BUILD: runs the benchmarks of a build folder, on the demo's model or on MODEL=FILE. They
# say themselves what they measure and how; the machine should have nothing else to do.
set -euo pipefail
build=$1
# shellcheck source=fetch.sh
. "$(dirname "${BASH_SOURCE[0]}")/fetch.sh"
model=${MODEL:-$(demo_model)}
[ -f "$model" ] || fail "there is no model at $model. tools/setup.sh fetches the demo's; MODEL=FILE names another."

for program in versus_llama_cpp rest_bench; do
  say "== $program -m $(basename "$model")"
  "$build/$program" -m "$model"
done

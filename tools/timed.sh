#!/usr/bin/env bash
# timed.sh STEP COMMAND...: runs COMMAND and says how long STEP took, or that it failed.
set -uo pipefail
step=$1
shift
begin=$SECONDS
"$@"
status=$?
[ "$status" -eq 0 ] && outcome=took || outcome="failed after"
printf -- '-- %s %s %d s\n' "$step" "$outcome" "$((SECONDS - begin))"
exit "$status"

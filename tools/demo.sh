#!/usr/bin/env bash
# demo.sh PRIMA [QUESTION]: a chat model answers through a ring of three processes on this machine,
# the head and two workers, none of which holds the model whole. PRIMA is the built executable.
#
# However it ends, it first ends every process it started, by its id.
set -euo pipefail
prima=$1
question=${2:-What is the capital of France, and what is it known for?}
# shellcheck source=fetch.sh
. "$(dirname "${BASH_SOURCE[0]}")/fetch.sh"
model=$(demo_model)
demo_model_is_here || fail "the demo's model is not at $model. Run tools/setup.sh, which fetches it."

WORKERS="desktop notebook"
logs=$(mktemp -d)
pids=() # of the workers, in the order of WORKERS, then of the head

stop_all() {
  local pid tries
  for pid in ${pids[@]+"${pids[@]}"}; do kill "$pid" 2>/dev/null || true; done
  for pid in ${pids[@]+"${pids[@]}"}; do
    # Five seconds to leave in order.
    for ((tries = 0; tries < 50; tries++)); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  pids=()
}
trap 'stop_all; rm -rf "$logs"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The most that a running process ever had in memory, in bytes; what it has now where the system
# does not say that.
peak_memory() { # PID
  if [ -r "/proc/$1/status" ]; then
    awk '/^VmHWM:/ { print $2 * 1024 }' "/proc/$1/status"
  else
    ps -o rss= -p "$1" | awk '{ print $1 * 1024 }'
  fi
}

# What `prima run --json` says of the devices, one a line: weights in bytes, layers, name. The file
# is pretty-printed, two spaces a level.
devices_in_report() {
  awk '
    function value(line) { sub(/^[^:]*: "?/, "", line); sub(/"?,?$/, "", line); return line }
    /^  "devices"/ { part = "devices" }
    /^  "plan"/ { part = "plan" }
    /^  "memory"/ { part = "memory" }
    part == "devices" && /^      "name"/ { ++device }
    part == "devices" && /^        "weights"/ { weights[device] = value($0) }
    part == "plan" && /^        "name"/ { ++planned; name[planned] = value($0) }
    part == "plan" && /^ +[0-9]+,?$/ {
      if (++bounds % 2) { first = $1 + 0; next }
      layers[planned] = layers[planned] (layers[planned] ? "," : "") first "-" ($1 - 1)
    }
    END {
      for (i = 1; i <= device; ++i) print weights[i], (layers[i] ? layers[i] : "none"), name[i]
    }' "$logs/report.json"
}

mebibytes() { awk -v bytes="$1" 'BEGIN { printf "%.1f MiB", bytes / 1048576 }'; }

show_devices() {
  local weights layers name process peak number=0 whole=0 total
  total=$(devices_in_report | awk '{ sum += $1 } END { print sum }')
  say ""
  printf '  %-22s %-10s %-12s %s\n' process layers weights "in memory at most"
  while read -r weights layers name; do
    if [ "$number" -eq 0 ]; then
      process="head"
      peak=$(awk '/"head_peak_resident"/ { print $2 + 0 }' "$logs/report.json")
    else
      # Workers join in any order; their names say which is which.
      local worker index=0
      for worker in $WORKERS; do
        [ "$worker" = "$name" ] && break
        index=$((index + 1))
      done
      process="$name, pid ${pids[$index]}"
      peak=$(peak_memory "${pids[$index]}")
    fi
    printf '  %-22s %-10s %-12s %s\n' "$process" "$layers" "$(mebibytes "$weights")" "$(mebibytes "$peak")"
    [ "$weights" -lt "$total" ] || whole=1
    number=$((number + 1))
  done < <(devices_in_report)
  printf '  %-22s %-10s %s\n\n' "together" "" "$(mebibytes "$total")"
  [ "$number" -eq 3 ] || fail "the ring had $number devices, not three."
  [ "$whole" -eq 0 ] || fail "a process held the whole model."
}

name=$(basename "$model")
say "A ring of three processes on this machine, each as if it were a device of its own:"
say ""
for worker in $WORKERS; do
  say "  \$ prima join -m $name --name $worker &"
  "$prima" join -m "$model" --name "$worker" </dev/null >"$logs/$worker" 2>&1 &
  pids+=($!)
done
say "  \$ prima run -m $name --workers 2 --rounds 1 -p \"$question\""
say ""

# In the background, so that a signal to this script is acted on at once.
"$prima" run -m "$model" --workers 2 --rounds 1 -p "$question" -n 100 --temp 0 --json "$logs/report.json" &
pids+=($!)
status=0
wait $! || status=$?
if [ "$status" -ne 0 ]; then
  for worker in $WORKERS; do
    say "-- The last that worker $worker said:" >&2
    tail -n 5 "$logs/$worker" >&2
  done
  exit "$status"
fi
show_devices
stop_all
say "None of them held the model whole. All three have ended."

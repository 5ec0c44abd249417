#!/usr/bin/env bash
# A ring across network namespaces, each a device with an address, a key file and a runtime folder of
# its own: a worker finds the head by multicast, another is told where it is, over links of 200 Mbit/s
# (and 2 ms, where the kernel can).
#
# PRIMA_EXECUTABLE is the program. Needs root; exits with 77 (skipped) where namespaces can't be made.
set -euo pipefail
prima=$PRIMA_EXECUTABLE
work=$(mktemp -d)
net=prima$$
devices="head one two"

# All that runs in the namespaces, whoever started it.
clean_up() {
  local device pid
  for device in $devices; do
    for pid in $(ip netns pids "$net-$device" 2>/dev/null); do
      kill -KILL "$pid" 2>/dev/null || true
    done
  done
  wait
  for device in $devices switch; do ip netns del "$net-$device" 2>/dev/null || true; done
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

fail() {
  echo "FAILED: $*" >&2
  tail -n 20 "$work"/*.log >&2 || true
  exit 1
}

ip netns add "$net-switch" 2>/dev/null || { echo "skipped: no network namespaces here"; exit 77; }
ip -n "$net-switch" link add bridge type bridge
ip -n "$net-switch" link set bridge up
number=0
for device in $devices; do
  number=$((number + 1))
  ip netns add "$net-$device"
  ip -n "$net-switch" link add "to-$device" type veth peer name eth0 netns "$net-$device"
  ip -n "$net-switch" link set "to-$device" master bridge up
  ip -n "$net-$device" addr add "10.77.0.$number/24" dev eth0
  ip -n "$net-$device" link set eth0 up
  ip -n "$net-$device" link set lo up
  # Not every kernel has either; the ring must work all the same.
  tc -n "$net-$device" qdisc add dev eth0 root netem rate 200mbit delay 2ms 2>/dev/null ||
    tc -n "$net-$device" qdisc add dev eth0 root tbf rate 200mbit burst 64kb latency 50ms \
      2>/dev/null || echo "note: $device's link is not shaped"
  mkdir -m 700 "$work/$device"
done

# Nothing outlives this by much, even if the shell itself is killed and can't clean up.
limit=240

on() { # DEVICE COMMAND...
  local device=$1
  shift
  timeout --kill-after=5 "$limit" ip netns exec "$net-$device" \
    env -u PRIMA_LAN XDG_RUNTIME_DIR="$work/$device" XDG_CONFIG_HOME="$work/$device" "$@"
}

model=$work/model.gguf
"$prima" model synth --layers 6 --embd 64 --ff 128 --heads 4 --kv-heads 2 --vocab 300 --type F16 \
  -o "$model" >"$work/synth.log" 2>&1 || fail "no model"

# tokens FILE OPTION...: the answer's token ids.
tokens() {
  local report=$1
  shift
  on head timeout 60 "$prima" run -m "$model" --threads 1 --raw -p "Once upon a time" --temp 0 -n 24 \
    --json "$report" "$@" >"$work/run.log" 2>&1 || fail "run $*"
  tr -d ' \n' <"$report" | sed 's/.*"tokens":\[\([^]]*\)\].*/\1/'
}

key=$(on head "$prima" key)
for device in one two; do on "$device" "$prima" key --set "$key" >/dev/null; done
alone=$(tokens "$work/alone.json")

on one "$prima" join -m "$model" --name one --threads 1 >"$work/one.log" 2>&1 &
on two "$prima" join -m "$model" --name two --threads 1 --head 10.77.0.1:47000 >"$work/two.log" 2>&1 &
found=$(tokens "$work/found.json" --workers 2 --rounds 2 --port 47000)
[ "$found" = "$alone" ] || fail "other tokens: $found instead of $alone"
grep -q "10.77.0.1:47000" "$work/one.log" || fail "worker one did not find the head by its address"
echo "passed: workers found the head by multicast and by its address; tokens as on one device"

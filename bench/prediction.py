#!/usr/bin/env python3
"""Is what the planner predicts what then happens?

    sudo bench/prediction.py --prima build/release/prima --model model.gguf [--only 3,4] [--neighbours 10]

Model: 1.5 GB or more, so that what a program takes besides is small against a device's share of it.

Emulates home clusters on this machine: each device is a process in a network namespace of its own,
with its memory and its disk limited by cgroups (v1), its link by tc's tbf, and a copy of the model of its
own: of one file, pages that one device reads and another uses would count as the first one's. For each
configuration it starts `prima join` on the workers and `prima run` without a plan on the head, and
prints the time per token that the plan promised beside the one that was measured.

The devices share this machine's processor. With one sequence they compute in turn, so each has the
whole processor while it is its turn, and its profile is taken just so, one device after the other.
Devices are made uneven by --threads. Nothing else may run meanwhile. A first answer corrects the
profiles, as wherever Prima is used; then up to five more are asked for within half a minute, and what is
shown is the one whose error is the median.

A configuration is void, and says so, where it is not what it is called: weights are read from disk
although it is called to fit, or none are although not; a device took a larger budget than its control
group allows; or a process was killed for memory.

--neighbours N: also runs the chosen plan and its neighbours (rounds halved and doubled, a layer moved to
the next device, a device dropped), N pairs each in the order ABBA, and prints how each compares, with a
95 % interval. --named TEXT: only those whose name has this in it, "without" for instance.
"""

import argparse
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time


# What a plan promises is for a prompt of half the context and an answer of the other half, at most 512
# and 256 tokens: with so little it is for answers as long as those that are measured.
CONTEXT = "64"

# Memory for weights, as shares of the model's, so that any model will do.
CONFIGURATIONS = [
    # name, whether all fits, link (Mbit/s), devices: (share or None, disk MB/s, threads)
    ("one device, fits", True, 0, [(None, 0, 2)]),
    ("one device, half fits, fast disk", False, 0, [(0.5, 1000, 2)]),
    ("one device, half fits, slow disk", False, 0, [(0.5, 200, 2)]),
    ("one slow device, three quarters fit", False, 0, [(0.75, 300, 1)]),
    ("two devices, fit together", True, 300, [(0.7, 300, 2), (0.7, 300, 2)]),
    ("two devices, do not fit, even", False, 300, [(0.4, 300, 2), (0.4, 300, 2)]),
    ("two devices, one slow", True, 300, [(0.7, 300, 2), (0.8, 300, 1)]),
    ("two devices, one slow disk", False, 300, [(0.4, 150, 2), (0.4, 800, 2)]),
    ("three devices, fit together", True, 300, [(0.5, 300, 2), (0.5, 300, 2), (0.5, 300, 1)]),
    ("three devices, do not fit", False, 300, [(0.27, 300, 2), (0.27, 300, 2), (0.27, 300, 2)]),
    ("four devices, fit together", True, 100, [(0.4, 300, 2)] * 4),
    ("four devices, do not fit, uneven", False, 100,
     [(0.25, 400, 2), (0.2, 200, 2), (0.15, 400, 2), (0.2, 300, 1)]),
]

CGROUPS = "/sys/fs/cgroup"
# The program, compute buffers and KV cache; and the part of a device's memory that is left to others
# (weights::default_reserve: 10 %, between 64 MiB and 2 GiB).
BESIDES = 130 << 20


def device_memory(weights):
    """A device's memory, so that it can hold so many bytes of weights."""
    used = weights + BESIDES
    return int(used + min(max(used / 9, 64 << 20), 2 << 30))


def write(path, text):
    with open(path, "w") as file:
        file.write(str(text))


class Cluster:
    """Namespaces, cgroups and folders of some devices; taken away at the end."""

    def __init__(self, prima, models, work, name, devices, mbit):
        self.prima, self.models, self.work, self.devices = prima, models, work, devices
        self.net = f"prima-{os.getpid()}"
        self.processes = []
        self.groups = []
        self.namespaces = []
        disk = os.stat(models[0]).st_dev
        self.disk = self.whole_disk(os.major(disk), os.minor(disk))
        if len(devices) > 1:
            self.namespace("switch")
            self.sh(f"ip -n {self.net}-switch link add bridge type bridge")
            self.sh(f"ip -n {self.net}-switch link set bridge up")
        for number, (memory, disk_mb, _) in enumerate(devices):
            self.device(number, memory, disk_mb, mbit, len(devices) > 1)

    @staticmethod
    def sh(command):
        subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)

    @staticmethod
    def whole_disk(major, minor):
        path = os.path.realpath(f"/sys/dev/block/{major}:{minor}")
        if os.path.exists(os.path.join(path, "partition")):
            path = os.path.dirname(path)
        with open(os.path.join(path, "dev")) as file:
            return file.read().strip()

    def namespace(self, name):
        self.sh(f"ip netns add {self.net}-{name}")
        self.namespaces.append(f"{self.net}-{name}")
        self.sh(f"ip -n {self.net}-{name} link set lo up")

    def device(self, number, memory, disk_mb, mbit, networked):
        folder = self.folder(number)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for controller in ("memory", "blkio"):
            group = f"{CGROUPS}/{controller}/{self.net}-{number}"
            os.makedirs(group, exist_ok=True)
            self.groups.append(group)
        if memory:
            write(f"{CGROUPS}/memory/{self.net}-{number}/memory.limit_in_bytes", memory)
        if disk_mb:
            write(f"{CGROUPS}/blkio/{self.net}-{number}/blkio.throttle.read_bps_device",
                  f"{self.disk} {disk_mb * 1000000}")
        if not networked:
            return
        self.namespace(f"d{number}")
        self.sh(f"ip -n {self.net}-switch link add to-{number} type veth peer name eth0 "
                f"netns {self.net}-d{number}")
        self.sh(f"ip -n {self.net}-switch link set to-{number} master bridge up")
        self.sh(f"ip -n {self.net}-d{number} addr add 10.78.0.{number + 1}/24 dev eth0")
        self.sh(f"ip -n {self.net}-d{number} link set eth0 up")
        self.sh(f"tc -n {self.net}-d{number} qdisc add dev eth0 root tbf rate {mbit}mbit "
                f"burst 64kb latency 2000ms")

    def folder(self, number):
        return os.path.join(self.work, f"device{number}")

    def start(self, number, arguments, log, output=os.devnull):
        """The program as device `number`. (Not by `ip netns exec`: it hides the control groups, by which
        a program knows its limits.)"""
        inside = ["nsenter", f"--net=/run/netns/{self.net}-d{number}"] if len(self.devices) > 1 else []
        groups = [f"{CGROUPS}/{c}/{self.net}-{number}/cgroup.procs" for c in ("memory", "blkio")]
        join = "; ".join(f"echo $$ > {group}" for group in groups)
        environment = dict(os.environ, XDG_RUNTIME_DIR=self.folder(number),
                           XDG_CONFIG_HOME=self.work, XDG_CACHE_HOME=self.folder(number))
        command = ["bash", "-c", f"{join}; exec \"$@\"", "bash"] + inside + [self.prima] + arguments
        process = subprocess.Popen(command, env=environment, stdout=open(output, "w"),
                                   stderr=open(log, "w"), stdin=subprocess.DEVNULL)
        self.processes.append(process)
        return process

    def finish(self, number, arguments, log, output=os.devnull):
        if self.start(number, arguments, log, output).wait(timeout=120) != 0:
            raise RuntimeError(open(log).read())

    def start_workers(self):
        for number in range(1, len(self.devices)):
            self.start(number, ["-v", "join", "-m", self.models[number], "--name", f"device{number}", "--head",
                                "10.78.0.1:47100", "--threads", str(self.devices[number][2])],
                       os.path.join(self.work, f"join{number}.log"))

    def run(self, tokens, prompt, extra=()):
        """One answer; what was promised and what was measured, in seconds per token."""
        report = os.path.join(self.work, "report.json")
        log = os.path.join(self.work, "run.log")
        if os.path.exists(report):
            os.remove(report)
        arguments = ["-v", "run", "-m", self.models[0], "--raw", "-p", prompt, "-n", str(tokens), "--temp",
                     "0", "--ignore-eos", "--json", report, "-c", CONTEXT, "--threads",
                     str(self.devices[0][2])]
        if len(self.devices) > 1:
            arguments += ["--port", "47100", "--workers", str(len(self.devices) - 1)]
        started = time.time()
        process = self.start(0, arguments + list(extra), log)
        try:
            status = process.wait(timeout=240)
        except subprocess.TimeoutExpired:
            process.kill()
            status = "none in 240 s"
        text = open(log).read()
        if status != 0:
            raise RuntimeError(f"exit status {status}:\n{text}")
        expected = re.search(r"expected: ([0-9.]+) ms per token", text)
        measured = json.load(open(report))
        return {"predicted": float(expected.group(1)) / 1e3 if expected else None,
                "measured": measured["tpot_ms"] / 1e3, "devices": measured["devices"],
                "seconds": time.time() - started, "log": text}

    def faults(self, result, fits):
        """What makes a run another than its configuration is called."""
        faults = []
        streamed = sum(device["memory"]["streamed_per_token"] for device in result["devices"])
        if bool(streamed) == fits:
            faults.append(f"{streamed / 1e6:.0f} MB are read from disk per token")
        for device in result["devices"]:
            # The head is called as the host is; workers by their numbers.
            match = re.fullmatch(r"device([0-9]+)", device["name"])
            memory = self.devices[int(match.group(1)) if match else 0][0]
            if memory and device["memory"]["budget"] > memory:
                faults.append(f"{device['name']} takes {device['memory']['budget']} of {memory} bytes")
        for number in range(len(self.devices)):
            with open(f"{CGROUPS}/memory/{self.net}-{number}/memory.oom_control") as file:
                if not re.search(r"^oom_kill 0$", file.read(), re.M):
                    faults.append(f"device {number} was killed for memory")
        return faults

    def prepare(self):
        """The key that the devices share, and their profiles: how long the head's took."""
        self.finish(0, ["key"], os.path.join(self.work, "key.log"))
        taken = []
        for number, (_, _, threads) in enumerate(self.devices):
            started = time.time()
            self.finish(number, ["profile", "-m", self.models[number], "--json", "--threads",
                                 str(threads)],
                        os.path.join(self.work, f"profile{number}.log"),
                        os.path.join(self.work, f"profile{number}.json"))
            taken.append(time.time() - started)
        return taken[0]

    def plan(self, path):
        arguments = ["plan", "-m", self.models[0], "-c", CONTEXT, "--json", "--no-what-if", "--threads",
                     str(self.devices[0][2])]
        if len(self.devices) > 1:
            arguments += ["--port", "47100", "--workers", str(len(self.devices) - 1)]
        self.finish(0, arguments, os.path.join(self.work, "plan.log"), path)

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for group in self.groups:
            for _ in range(50):
                try:
                    os.rmdir(group)
                    break
                except OSError:
                    time.sleep(0.1)
        for namespace in self.namespaces:
            subprocess.run(["ip", "netns", "del", namespace])


def windows_of(plan):
    """Layers by round and device."""
    rounds = plan["rounds"]
    return [[device["windows"][r][1] for device in plan["devices"]] for r in range(rounds)]


def with_windows(plan, windows):
    """The plan with other windows: slots and budgets stay, so what is streamed follows."""
    changed = json.loads(json.dumps(plan))
    changed["rounds"] = len(windows)
    slots = max([d["slot_bytes"] for d in plan["devices"]] + [64 << 20])
    for i, device in enumerate(changed["devices"]):
        before = sum(window[1] for window in device["windows"])
        layers = sum(row[i] for row in windows)
        held = device["resident_bytes"] + device["streamed_bytes"] + device["kv_bytes"]
        if before and held * layers / before > device["budget_bytes"] and not device["slot_bytes"]:
            device["slot_bytes"] = slots
        device["windows"] = []
    first = 0
    for row in windows:
        for device, layers in zip(changed["devices"], row):
            device["windows"].append([first, layers, [0] * len(device["gpu_names"])])
            first += layers
    return changed


def dealt(total, rounds):
    return [(total * (r + 1) + rounds - 1) // rounds - (total * r + rounds - 1) // rounds
            for r in range(rounds)]


def re_dealt(plan, counts, rounds):
    per_device = [dealt(count, rounds) for count in counts]
    return with_windows(plan, [[d[r] for d in per_device] for r in range(rounds)])


def neighbours_of(plan):
    """By what differs."""
    windows = windows_of(plan)
    rounds = len(windows)
    counts = [sum(column) for column in zip(*windows)]
    result = {}
    if rounds > 1:
        result["rounds halved"] = re_dealt(plan, counts, rounds // 2)
    if len(counts) > 1 and 2 * rounds <= max(counts):
        result["rounds doubled"] = re_dealt(plan, counts, 2 * rounds)
    for giver in range(len(counts) if len(counts) > 1 else 0):
        taker = (giver + 1) % len(counts)
        if counts[giver] == 0:
            continue
        moved = list(counts)
        moved[giver] -= 1
        moved[taker] += 1
        result[f"a layer from {plan['devices'][giver]['name']} to {plan['devices'][taker]['name']}"] = (
            re_dealt(plan, moved, rounds))
    for dropped in range(1, len(counts)):
        rest = [i for i in range(len(counts)) if i != dropped and counts[i] > 0]
        if counts[dropped] == 0 or not rest:
            continue
        moved = list(counts)
        for n in range(counts[dropped]):
            moved[rest[n % len(rest)]] += 1
        moved[dropped] = 0
        result[f"without {plan['devices'][dropped]['name']}"] = re_dealt(plan, moved, rounds)
    return result


# Student's t for 95 %, by pairs less one.
T = [0, 12.7, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13]


def interval(logs):
    """The geometric mean of ratios given as logarithms, and between what it lies with 95 %."""
    mean = sum(logs) / len(logs)
    if len(logs) < 2:
        return math.exp(mean), 0, math.inf
    deviation = math.sqrt(sum((x - mean)**2 for x in logs) / (len(logs) - 1))
    half = T[min(len(logs) - 1, len(T) - 1)] * deviation / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def compare(cluster, work, pairs, named, tokens, prompt):
    """Runs the plan and each neighbour in pairs; how many neighbours are more than 5 % faster for sure."""
    faster = 0
    path = os.path.join(work, "plan.json")
    cluster.plan(path)
    plan = json.load(open(path))
    for name, neighbour in neighbours_of(plan).items():
        if named not in name:
            continue
        other = os.path.join(work, "neighbour.json")
        json.dump(neighbour, open(other, "w"))
        logs, totals = [], {path: 0, other: 0}
        for pair in range(pairs):
            order = [path, other] if pair % 2 == 0 else [other, path]
            try:
                times = {p: cluster.run(tokens, prompt, ["--plan", p])["measured"] for p in order}
            except RuntimeError as error:
                print(f"    {name}: can't run: {str(error).strip().splitlines()[-1]}", flush=True)
                break
            logs.append(math.log(times[other] / times[path]))
            for each in order:
                totals[each] += times[each]
        if not logs:
            continue
        mean, low, high = interval(logs)
        faster += high < 0.95
        print(f"    {name}: takes {mean:.3f} of the plan's time [{low:.3f}, {high:.3f}], "
              f"{1e3 * totals[other] / len(logs):.0f} ms and {1e3 * totals[path] / len(logs):.0f} ms, "
              f"{len(logs)} pairs", flush=True)
    return faster


def error_of(result):
    if result["predicted"] is None:
        raise RuntimeError("no prediction:\n" + result["log"])
    return result["predicted"] / result["measured"] - 1


def several(run, most=5, enough_seconds=30):
    results = []
    started = time.time()
    while len(results) < most and (not results or time.time() - started < enough_seconds):
        results.append(run())
    return results


def measure(number, prima, models, options):
    """One configuration: whether it was missed, whether it is void, and how many neighbours are faster."""
    name, fits, mbit, devices = CONFIGURATIONS[number - 1]
    weights = os.path.getsize(models[0])
    missed = void = faster = 0
    sized = [(device_memory(share * weights) if share else 0, disk, threads)
             for share, disk, threads in devices]
    work = os.path.join(options.keep, str(number)) if options.keep else tempfile.mkdtemp()
    os.makedirs(work, mode=0o700, exist_ok=True)
    cluster = Cluster(prima, models, work, name, sized, mbit)
    try:
        # Pages of the model that earlier devices brought in would count as theirs.
        write("/proc/sys/vm/drop_caches", 1)
        profiling = cluster.prepare()
        cluster.start_workers()
        cluster.run(options.tokens, "Once upon a time")  # profiles learn from it
        results = several(lambda: cluster.run(options.tokens, "Once upon a time"))
        result = sorted(results, key=error_of)[len(results) // 2]
        error = error_of(result)
        faults = cluster.faults(result, fits)
        void = bool(faults)
        missed = abs(error) > 0.15
        print(f"{number:>2} {name:<39}{1e3 * result['predicted']:>8.0f} ms"
              f"{1e3 * result['measured']:>8.0f} ms{100 * error:>+7.1f}%"
              + (f"  of {len(results)}: {100 * min(map(error_of, results)):+.1f} to "
                 f"{100 * max(map(error_of, results)):+.1f}" if len(results) > 1 else ""), flush=True)
        for line in result["log"].splitlines():
            if line.startswith(("Plan:", "info: Plan:", "Without")):
                print("    " + line, flush=True)
        for fault in faults:
            print(f"    void: {fault}", flush=True)
        print(f"    head's profile {profiling:.1f} s; in all {result['seconds']:.1f} s",
              flush=True)
        if options.neighbours:
            faster = compare(cluster, work, options.neighbours, options.named, options.tokens,
                             "Once upon a time")
    except RuntimeError as error:
        missed = 1
        print(f"{number:>2} {name:<39} failed: {error}", flush=True)
    finally:
        cluster.close()
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)
    return missed, void, faster


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prima", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--only", help="numbers of configurations, from 1")
    parser.add_argument("--named", default="", help="of the neighbours, those with this in their name")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--neighbours", type=int, default=0)
    parser.add_argument("--keep", help="a folder for profiles and logs")
    options = parser.parse_args()
    prima, model = os.path.abspath(options.prima), os.path.abspath(options.model)
    chosen = [int(n) for n in options.only.split(",")] if options.only else range(
        1, len(CONFIGURATIONS) + 1)
    misses = voids = faster = 0
    print(f"{'configuration':<42}{'predicted':>11}{'measured':>11}{'error':>8}", flush=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(model)) as folder:
        models = [model]
        for number in range(1, max(len(CONFIGURATIONS[n - 1][3]) for n in chosen)):
            models.append(shutil.copy(model, os.path.join(folder, f"{number}.gguf")))
        for number in chosen:
            missed, void, more = measure(number, prima, models, options)
            misses, voids, faster = misses + missed, voids + void, faster + more
    print(f"{misses} of {len(list(chosen))} off by more than 15 %, {voids} void"
          + (f"; {faster} neighbours more than 5 % faster" if options.neighbours else ""))
    return 1 if misses or voids or faster else 0


if __name__ == "__main__":
    sys.exit(main())

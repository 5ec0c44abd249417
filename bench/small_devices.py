#!/usr/bin/env python3
"""Small devices on a large machine: time per token within a memory budget, beside the physical limit.

    small_devices.py one  --model M --memory 1G,2G,3G --disk 300M,0 [--llama PATH]
    small_devices.py ring --models M0,M1,M2,M3 --memory 1G --disk 300M --rounds 1,2,4,8 \
                          --windows 5,9,9,9
    small_devices.py peak --model M --times 1,1.25,2

As root. Each device is a cgroup of its own (version 1 or 2) with twice its budget of memory, so that
an excess over the budget shows, and with a throttled disk (0: as it is). llama.cpp gets a cgroup of
just the budget, in which its page cache counts. The page cache is dropped before each run. The devices of a ring take turns on this machine's processors and read their own
files (copies; give one file four times only where direct reads are known to work).

limit = the larger of the in-memory TPOT and
        (weight bytes used per token + KV + 128 MiB per device - budgets) / summed disk speed.

Prints a line per run and, at the end, everything as JSON (--json FILE).
"""
import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

MIB = 1 << 20
CGROUPS = pathlib.Path("/sys/fs/cgroup")
OWN_SHARE = 128 * MIB  # of a device's memory for program, buffers and slots, by definition


def size(text):
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKMGT]?)(?:i?B)?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text} is no size")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def speed(text):  # disks are sold in powers of ten
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKMG]?)(?:B/s)?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text} is no speed")
    return int(float(match[1]) * 1000 ** " KMG".index(match[2].upper() or " "))


def listed(kind):
    return lambda text: [kind(part) for part in text.split(",")]


class Device:
    """A cgroup: a limit of memory, a throttled disk."""

    def __init__(self, name, memory_limit, disk, files):
        self.v2 = not (CGROUPS / "memory").is_dir()
        kinds = [""] if self.v2 else ["memory", "blkio"]
        self.folders = [CGROUPS / kind / f"prima-{name}" for kind in kinds]
        for folder in self.folders:
            folder.mkdir(exist_ok=True)
        memory = self.folders[0]
        (memory / ("memory.max" if self.v2 else "memory.limit_in_bytes")).write_text(
            str(memory_limit))
        for disk_name in {disk_of(file) for file in files}:
            if self.v2:
                (memory / "io.max").write_text(f"{disk_name} rbps={disk or 'max'}")
            else:
                throttle = self.folders[1] / "blkio.throttle.read_bps_device"
                throttle.write_text(f"{disk_name} {disk}")
        self.processes = []
        self.reset()

    def reset(self):
        self.peak_pressure = 0
        self.at_peak = {}  # what the largest sample was made of
        if not self.v2:
            (self.folders[0] / "memory.max_usage_in_bytes").write_text("0")
            (self.folders[0] / "memory.failcnt").write_text("0")

    def start(self, command, **more):
        def enter():
            for folder in self.folders:
                (folder / "cgroup.procs").write_text(str(os.getpid()))

        process = subprocess.Popen(command, preexec_fn=enter, text=True, **more)
        self.processes.append(process)
        return process

    def sample(self):
        """Memory that the system cannot take back now: anonymous, locked, dirty, kernel's."""
        stat = {}
        for line in (self.folders[0] / "memory.stat").read_text().splitlines():
            name, value = line.split()
            stat[name.removeprefix("total_")] = int(value)
        if self.v2:
            held = sum(stat.get(n, 0) for n in ("anon", "shmem", "file_dirty", "kernel"))
        else:
            kernel = int((self.folders[0] / "memory.kmem.usage_in_bytes").read_text())
            held = stat["rss"] + stat.get("shmem", 0) + stat.get("dirty", 0) + kernel
        self.peak_pressure = max(self.peak_pressure, held)
        usage = int((self.folders[0] / ("memory.current" if self.v2 else "memory.usage_in_bytes"))
                    .read_text())
        if usage > self.at_peak.get("usage", 0):
            kinds = ("anon", "rss", "cache", "shmem", "mapped_file", "file_mapped", "active_file",
                     "inactive_file")
            self.at_peak = {"usage": usage, **{n: stat[n] for n in kinds if n in stat}}

    def peak(self):
        name = "memory.peak" if self.v2 else "memory.max_usage_in_bytes"
        path = self.folders[0] / name
        return int(path.read_text()) if path.exists() else None

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for folder in self.folders:
            for _ in range(50):
                try:
                    folder.rmdir()
                    break
                except OSError:
                    time.sleep(0.1)


class Sampler:
    def __init__(self, devices):
        self.devices = devices
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.work)

    def work(self):
        while not self.stop.wait(0.1):
            for device in self.devices:
                device.sample()

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def disk_of(file):
    number = os.stat(file).st_dev
    folder = pathlib.Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if (folder / "partition").exists():
        return (folder / ".." / "dev").resolve().read_text().strip()
    return f"{os.major(number)}:{os.minor(number)}"


def drop_caches():
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def direct_read_speed(file, seconds=2.0):
    """Of four readers with a queue each, in bytes per second."""
    import mmap
    chunk = 4 * MIB
    n_chunks = os.stat(file).st_size // chunk
    counter = iter(range(1 << 30))
    done = []
    end = time.monotonic() + seconds

    def read():
        descriptor = os.open(file, os.O_RDONLY | os.O_DIRECT)
        buffer = mmap.mmap(-1, chunk)
        count = 0
        while time.monotonic() < end:
            os.preadv(descriptor, [buffer], next(counter) % n_chunks * chunk)
            count += 1
        os.close(descriptor)
        done.append(count)

    start = time.monotonic()
    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) * chunk / (time.monotonic() - start)


def stream_bench(options, more, device=None):
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [str(options.build / "stream_bench"), "-m", options.model, "--json", report.name,
                   "--context", str(options.context), "--threads", str(options.threads), *more]
        start = device.start if device else subprocess.Popen
        process = start(command, stdout=subprocess.DEVNULL)
        if process.wait() != 0:
            raise SystemExit(f"{' '.join(command)} failed")
        return json.loads(pathlib.Path(report.name).read_text())


def in_memory(options):
    """Weights and KV bytes that a token uses, and its time with all of them in memory."""
    report = stream_bench(options, ["--decode", str(options.tokens * 4)])
    used = report["memory"]["weights"]
    print(f"in memory: {report['tpot_seconds']:.3f} s/token, {used / 1e9:.2f} GB of weights",
          flush=True)
    return used, report["tpot_seconds"]


def limit_of(used, kv, budgets, disks, memory_tpot):
    over = used + kv + OWN_SHARE * len(budgets) - sum(budgets)
    return max(memory_tpot, over / sum(disks))


def show_memory(device, budget):
    peak = device.peak()
    print(f"    peak memory {peak / MIB:.0f} MiB of {budget / MIB:.0f}"
          f"{'' if peak <= budget else '  ABOVE THE BUDGET'},"
          f" pressure {device.peak_pressure / MIB:.0f} MiB", flush=True)
    return {"peak": peak, "pressure": device.peak_pressure, "at_peak": device.at_peak}


def llama(options, budget, disk):
    """llama.cpp's mmap in a cgroup of the budget, weights as they lie in the file: repacked ones are
    anonymous memory, for which it is killed. llama-completion says what it took per token."""
    device = Device("llama", budget, disk, [options.model])
    drop_caches()
    command = [str(options.llama), "-m", options.model, "-lm", "mmap", "--no-repack", "-c",
               str(options.context), "-n", "4", "--temp", "0", "--ignore-eos", "-p", "Once upon",
               "--no-warmup", "-no-cnv"]
    command += ["-t", str(options.threads)] if options.threads else []
    process = device.start(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                           stdin=subprocess.DEVNULL)
    _, log = process.communicate()
    peak = device.peak()
    device.close()
    time_line = re.search(r"\beval time = .*?([\d.]+) ms per token.*$",
                          re.sub(r".*prompt eval time.*", "", log), re.MULTILINE)
    if process.returncode == 0 and time_line:
        return {"tpot": float(time_line[1]) / 1000, "peak": peak}
    if process.returncode < 0:
        return {"error": f"ended by {signal.Signals(-process.returncode).name}", "peak": peak}
    return {"error": (log.strip().splitlines() or ["said nothing"])[-1], "peak": peak}


def one(options):
    used, memory_tpot = options.used_and_tpot or in_memory(options)
    results = []
    for disk in options.disk:
        print(f"disk {f'{disk / 1e6:.0f} MB/s' if disk else 'as it is'}", flush=True)
        for budget in options.memory:
            device = Device("one", 2 * budget, disk, [options.model])
            drop_caches()
            # A disk that others use too changes from minute to minute: it is as fast as the fastest
            # that was seen, before, after and by the program itself.
            before = disk or direct_read_speed(options.model)
            with Sampler([device]):
                report = stream_bench(options, ["--memory", str(budget), "--decode",
                                                str(options.tokens)], device)
            disk_speed = disk
            if not disk:
                after = direct_read_speed(options.model)
                disk_speed = max(before, after, report["disk_bytes_per_second"])
                print(f"  disk {before / 1e6:.0f} MB/s before, {after / 1e6:.0f} after, "
                      f"{report['disk_bytes_per_second'] / 1e6:.0f} used", flush=True)
            limit = limit_of(used, report["memory"]["kv_cache"], [budget], [disk_speed], memory_tpot)
            tpot = report["tpot_seconds"]
            print(f"  {budget / MIB:.0f} MiB: {tpot:.3f} s/token, limit {limit:.3f}, ratio "
                  f"{tpot / limit:.3f}; {report['memory']['streamed_per_token'] / 1e6:.0f} MB per "
                  f"token, slots {report['memory']['slots'] / MIB:.0f} MiB", flush=True)
            result = {"disk": disk_speed, "memory": budget, "tpot": tpot, "limit": limit,
                      "report": report, **show_memory(device, budget)}
            device.close()
            if options.llama:
                result["llama"] = llama(options, budget, disk)
                if "tpot" in result["llama"]:
                    llama_tpot = result["llama"]["tpot"]
                    print(f"    llama.cpp, mmap, in {budget / MIB:.0f} MiB: {llama_tpot:.3f} s/token,"
                          f" {llama_tpot / tpot:.2f} times as long", flush=True)
                else:
                    print(f"    llama.cpp: {result['llama']['error']}", flush=True)
            results.append(result)
    return results


def run_ring(options, rounds, folder):
    n = len(options.models)
    port = options.port
    budgets = options.memory * n if len(options.memory) == 1 else options.memory
    devices = [Device(f"ring{i}", 2 * budgets[i], options.disk[0], [options.models[i]])
               for i in range(n)]
    drop_caches()
    environment = {**os.environ, "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder),
                   "XDG_CONFIG_HOME": str(folder)}
    prima = str(options.build / "prima")
    report_path = folder / f"rounds{rounds}.json"
    same = ["--threads", str(options.threads), *options.prima_options]
    windows = options.windows[rounds] if rounds in options.windows else options.windows[0]
    try:
        head = devices[0].start(
            [prima, "run", "-m", options.models[0], "--memory", str(budgets[0]), "--workers",
             str(n - 1), "--windows", windows, "--rounds", str(rounds), *options.step_tokens,
             "--port", str(port), "-c", str(options.context), "-n", str(options.tokens), "--ignore-eos", "--temp", "0", "--raw",
             "-p", "Once upon a time", "--json", str(report_path), *same],
            env=environment, stdout=subprocess.DEVNULL, stderr=open(folder / "head.log", "w"))
        for i in range(1, n):
            time.sleep(1)  # in this order they take their places in the ring
            devices[i].start([prima, "join", "-m", options.models[i], "--memory", str(budgets[i]),
                              "--head", f"127.0.0.1:{port}", "--name", f"device{i}", *same],
                             env=environment, stderr=open(folder / f"device{i}.log", "w"))
        with Sampler(devices):
            head.wait()
        if head.returncode != 0:
            raise SystemExit((folder / "head.log").read_text())
        report = json.loads(report_path.read_text())
        report["peaks"] = [show_memory(device, budget)
                           for device, budget in zip(devices, budgets)]
    finally:
        for device in devices:
            device.close()
        if options.logs:
            options.logs.mkdir(exist_ok=True)
            for log in folder.glob("*.log"):
                (options.logs / f"k{rounds}-{log.name}").write_bytes(log.read_bytes())
    return report


def ring(options):
    options.model = options.models[0]
    used, memory_tpot = options.used_and_tpot or in_memory(options)
    results = []
    for rounds in options.rounds:
        with tempfile.TemporaryDirectory() as folder:
            report = run_ring(options, rounds, pathlib.Path(folder))
        n = len(options.models)
        budgets = options.memory * n if len(options.memory) == 1 else options.memory
        disk_speed = options.disk[0] or direct_read_speed(options.models[0]) / n
        limit = limit_of(used, report["memory"]["kv_cache"], budgets, [disk_speed] * n, memory_tpot)
        tpot = report["tpot_ms"] / 1000
        print(f"k = {rounds}: {tpot:.3f} s/token, limit {limit:.3f}, ratio {tpot / limit:.3f}",
              flush=True)
        for device, plan in zip(report["devices"], report["plan"]["devices"]):
            memory = device["memory"]
            print(f"    {device['name']}: {sum(b - a for a, b in plan['windows'])} layers in "
                  f"{len(plan['windows'])} windows, weights {memory['weights'] / MIB:.0f} MiB, "
                  f"slots {memory['slots'] / MIB:.0f} MiB, buffers "
                  f"{memory['compute_buffers'] / MIB:.0f} MiB, KV {memory['kv_cache'] / MIB:.0f} "
                  f"MiB, program {memory['program'] / MIB:.0f} MiB, "
                  f"{memory['streamed_per_token'] / 1e6:.0f} MB streamed per token", flush=True)
        results.append({"rounds": rounds, "tpot": tpot, "limit": limit, "report": report})
    return results


def smallest_budget(command):
    """What a refusal says would be enough."""
    refused = subprocess.run([*command, "--memory", "1M"], capture_output=True, text=True,
                             check=False)
    enough = re.search(r"At least .*?\((\d+) bytes\)", refused.stderr)
    if refused.returncode == 0 or not enough:
        raise SystemExit(f"{' '.join(command)} --memory 1M was not refused: {refused.stderr}")
    return int(enough[1])


def peak(options):
    """Peak memory and memory pressure of `prima run` at the smallest budget and some times that."""
    command = [str(options.build / "prima"), "run", "-m", options.model, "-c",
               str(options.context), "-n", str(options.tokens), "--ignore-eos", "--temp", "0",
               "--raw", "-p", "Once upon a time " * options.prompt, "--no-store"]
    smallest = smallest_budget(command)
    results = []
    for times in options.times:
        budget = int(smallest * times)
        device = Device("peak", 2 * budget, 0, [options.model])
        drop_caches()
        process = device.start([*command, "--memory", str(budget)], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE)
        with Sampler([device]):
            _, log = process.communicate()
        if process.returncode != 0:
            raise SystemExit(log)
        print(f"{times:g} times the smallest budget", flush=True)
        results.append({"times": times, "memory": budget, **show_memory(device, budget)})
        device.close()
    return results


def windows_by_rounds(text):
    """5,9,9,9, or per number of rounds: 1:5,9,9,9;2:..."""
    if ":" not in text:
        return {0: text}
    return {int(rounds): windows for rounds, windows in
            (part.split(":") for part in text.split(";"))}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parent.parent / "build/release")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=6)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--used-and-tpot", type=listed(float),
                        help="weight bytes per token, in-memory seconds per token: not measured")
    kinds = parser.add_subparsers(dest="kind", required=True)
    alone = kinds.add_parser("one")
    alone.add_argument("--model", required=True)
    alone.add_argument("--memory", type=listed(size), default=[1 << 30])
    alone.add_argument("--disk", type=listed(speed), default=[300_000_000])
    alone.add_argument("--llama", type=pathlib.Path, help="llama.cpp's llama-completion")
    several = kinds.add_parser("ring")
    several.add_argument("--models", type=listed(str), required=True)
    several.add_argument("--memory", type=listed(size), default=[1 << 30])
    several.add_argument("--disk", type=listed(speed), default=[300_000_000])
    several.add_argument("--step-tokens", type=lambda n: ["--step-tokens", n], default=[],
                         help="of a prompt, computed at once")
    several.add_argument("--rounds", type=listed(int), default=[1, 2, 4, 8])
    several.add_argument("--windows", type=windows_by_rounds, required=True)
    several.add_argument("--port", type=int, default=47110)
    several.add_argument("--logs", type=pathlib.Path, help="a folder to keep what devices say")
    several.add_argument("--prima-options", type=str.split, default=[])
    peaks = kinds.add_parser("peak")
    peaks.add_argument("--model", required=True)
    peaks.add_argument("--times", type=listed(float), default=[1, 1.25, 2])
    peaks.add_argument("--prompt", type=int, default=40, help="a prompt of so many times four words")
    options = parser.parse_args()
    results = {"one": one, "ring": ring, "peak": peak}[options.kind](options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    sys.exit(main())

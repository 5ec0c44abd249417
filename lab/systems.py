"""How each system that can be measured is run in a household, and what it says of itself.

A system is a function `(bench, cold, lengths) -> dict`: it starts its programs, has them answer prompts of
these lengths, ends them, and returns figures: `tpot_ms`, `ttft_ms` (by prompt length), `start_ms` (until it could take a prompt), and
`tokens` where it tells them. Another system is one more such function in SYSTEMS.

Not thread-safe.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
import subprocess
import time
from dataclasses import dataclass, field

from cluster_file import Device
from household import Household, LabError
from scenario import Scenario

PORT = 47000
RPC_PORT = 50052
# A ring that has not formed, or a system that has not answered, by then has failed.
FORMING_SECONDS = 120
ANSWER_SECONDS = 900


@dataclass
class Bench:
    """What a system needs to know of the measurement."""

    home: Household
    scenario: Scenario
    prima: pathlib.Path
    llama_cpp: pathlib.Path | None  # the folder of its programs
    prompts: dict[int, str]  # texts, by the number of tokens asked for
    plan: Plan
    n_layer: int
    commands: list[str] = field(default_factory=list)  # as run, each once

    def note(self, device: str, command: list[str]) -> list[str]:
        line = f"{device}$ " + " ".join(command)
        for path, short in ((str(self.prima), "prima"), (str(self.llama_cpp) + "/", ""),
                            (str(self.home.folder) + "/", ""),
                            *((str(path), "model.gguf") for path in self.home.models.values())):
            line = line.replace(path, short)
        if line not in self.commands:
            self.commands.append(line)
        return command


@dataclass(frozen=True)
class Plan:
    """Which devices take part, the head first, and what they do: as a plan of `prima plan --json` says,
    or windows by hand; neither: a device alone."""

    devices: tuple[str, ...]
    windows: tuple[int, ...] = ()  # layers of each device in a round
    rounds: int = 1
    planned: dict | None = None


def threads(device: Device) -> int:
    return max(1, math.ceil(device.cores or len(os.sched_getaffinity(0))))


def _device_options(bench: Bench, device: str) -> list[str]:
    limits = bench.home.cluster.device(device)
    return ["-m", bench.home.model(device), "--memory", str(limits.budget_bytes), "--threads", str(threads(limits))]


def _share_key(bench: Bench) -> None:
    head, *workers = bench.plan.devices
    key = bench.home.output(head, [str(bench.prima), "key"]).strip()
    for worker in workers:
        bench.home.output(worker, [str(bench.prima), "key", "--set", key])


def start_ring(bench: Bench, arguments: list[str]) -> list[subprocess.Popen[bytes]]:
    """Starts `prima` with these arguments on the plan's head, and its workers; the head comes first.
    Workers join in the plan's order, for windows by hand."""
    home, plan = bench.home, bench.plan
    head, *workers = plan.devices
    command = [str(bench.prima), *arguments, *_device_options(bench, head)]
    if workers:
        _share_key(bench)
        command += ["--workers", str(len(workers)), "--port", str(PORT)]
    if plan.planned:
        plan_file = home.folder / head / "plan.json"
        plan_file.write_text(json.dumps(plan.planned), encoding="utf-8")
        command += ["--plan", str(plan_file)]
    elif plan.windows:
        command += ["--windows", ",".join(map(str, plan.windows)), "--rounds", str(plan.rounds)]
    (home.folder / "head.log").unlink(missing_ok=True)
    processes = [home.start(head, bench.note(head, command), log=home.folder / "head.log")]
    for worker in workers:
        time.sleep(0.7)  # so that each has joined before the next
        join = [str(bench.prima), "join", *_device_options(bench, worker), "--name", worker,
                "--head", f"{home.address(head)}:{PORT}"]
        processes.append(home.start(worker, bench.note(worker, join), log=home.folder / f"{worker}.log"))
    return processes


def write_stores(bench: Bench) -> None:
    """Each device of the plan writes its layers in its processor's layout, as it does by itself in its
    first rest of half a minute."""
    if not bench.plan.planned:
        raise LabError("stores need a program that runs plans (--plan)")
    for number, device in enumerate(bench.plan.planned["devices"]):
        layers = [f"{first}-{first + count - 1}" for first, count, *_ in device["windows"] if count]
        if number == 0:
            layers.append("output")
        if layers:
            store = [str(bench.prima), "model", "store", bench.home.model(device["name"]), "--layers", ",".join(layers)]
            bench.home.output(device["name"], bench.note(device["name"], store), seconds=ANSWER_SECONDS)


def start_answer(bench: Bench, prompt: str, tokens: int, report: pathlib.Path) -> list[subprocess.Popen[bytes]]:
    prompt_file = bench.home.folder / bench.plan.devices[0] / "prompt"
    prompt_file.write_text(prompt, encoding="utf-8")
    return start_ring(bench, ["run", "-c", str(bench.scenario.context), "--raw", "-f", str(prompt_file), "-n",
                              str(tokens), "--temp", "0", "--ignore-eos", "--json", str(report)])


def last_lines(home: Household, log: str, count: int = 5) -> str:
    path = home.folder / log
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return " / ".join(text.strip().splitlines()[-count:])


def _prima_answer(bench: Bench, length: int, tokens: int) -> dict:
    report = bench.home.folder / "report.json"
    report.unlink(missing_ok=True)
    begin = time.monotonic()
    processes = start_answer(bench, bench.prompts[length], tokens, report)
    try:
        status = processes[0].wait(timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"no answer after {ANSWER_SECONDS} s: {last_lines(bench.home, 'head.log')}") from error
    finally:
        for process in processes:
            bench.home.end(process)
    if status != 0:
        raise LabError(f"prima run ended with {status}: {last_lines(bench.home, 'head.log')}")
    answer = json.loads(report.read_text(encoding="utf-8"))
    answer["seconds"] = time.monotonic() - begin
    joined = [device["name"] for device in answer["plan"]["devices"]][1:]
    by_itself = not bench.plan.planned and not bench.plan.windows
    if not by_itself and joined != list(bench.plan.devices[1:]):
        raise LabError(f"the ring is {joined}, not as planned {bench.plan.devices[1:]}")
    return answer


def prima(bench: Bench, cold: bool, lengths: list[int]) -> dict:
    """The plan's ring; one ring for each prompt length, the answer that is measured after the first."""
    figures: dict = {"ttft_ms": {}}
    for number, length in enumerate(lengths):
        if cold:
            bench.home.drop_caches()
        answer = _prima_answer(bench, length, bench.scenario.tokens if number == 0 else 1)
        figures["ttft_ms"][str(answer["prompt_tokens"])] = answer["ttft_ms"]
        if number == 0:
            figures |= {"tpot_ms": answer["tpot_ms"], "tokens": answer["tokens"], "start_ms": answer["load_ms"],
                        "streamed_per_token_bytes": answer["memory"]["streamed_per_token"],
                        "kv_cache_bytes": answer["memory"]["kv_cache"]}
    return figures


# What it says of its own plan: "... expected: 65 ms per token, ...".
_EXPECTED = re.compile(r"expected: ([0-9.]+) (ms|s) per token")


def prima_by_itself(bench: Bench, cold: bool, lengths: list[int]) -> dict:
    """All devices join; the head profiles them and plans, as where nothing is said by hand. (For a prompt
    of 512 tokens and an answer of 256, its default, not for the time per token alone.)"""
    plan = bench.plan
    bench.plan = Plan(tuple([bench.home.cluster.head] + [device.name for device in bench.home.cluster.devices
                                                         if device.name != bench.home.cluster.head]))
    try:
        if cold:  # one after the other: devices of their own would not slow each other's measurements
            for device in bench.plan.devices:
                bench.home.output(device, [str(bench.prima), "profile", *_device_options(bench, device)])
        figures = prima(bench, cold, lengths)
    finally:
        bench.plan = plan
    said = _EXPECTED.search((bench.home.folder / "head.log").read_text(encoding="utf-8", errors="replace"))
    if said:
        figures["expected_tpot_ms"] = float(said[1]) * (1000 if said[2] == "s" else 1)
    return figures


def prima_alone(bench: Bench, cold: bool, lengths: list[int]) -> dict:
    """On the head alone, as if there were no others."""
    plan = bench.plan
    bench.plan = Plan(plan.devices[:1])
    try:
        return prima(bench, cold, lengths)
    finally:
        bench.plan = plan


# "eval time = 1234.56 ms / 15 runs (82.30 ms per token, ...": what it prints when it ends.
_PERFORMANCE = re.compile(r"(prompt eval|eval) time = *([0-9.]+) ms / *([0-9]+) (?:tokens|runs)")


def _llama_completion(bench: Bench, device: str, lengths: list[int], tokens: int, options: list[str]) -> dict:
    """One process for each prompt length; the answer that is measured after the first."""
    if bench.llama_cpp is None:
        raise LabError("llama.cpp's programs are not built")
    home = bench.home
    figures: dict = {"ttft_ms": {}}
    for number, length in enumerate(lengths):
        log = home.folder / "llama-completion.log"
        log.unlink(missing_ok=True)
        prompt_file = home.folder / device / "prompt"
        prompt_file.write_text(bench.prompts[length], encoding="utf-8")
        command = [str(bench.llama_cpp / "llama-completion"), "-m", home.model(device), "-t",
                   str(threads(home.cluster.device(device))), "-c", str(bench.scenario.context), "-f", str(prompt_file),
                   "-n", str(tokens if number == 0 else 1), "--temp", "0", "--ignore-eos", "-no-cnv", "--no-warmup", "--fit", "off",
                   *options]
        status = home.run(device, bench.note(device, command), ANSWER_SECONDS, log=log)
        text = log.read_text(encoding="utf-8", errors="replace")
        timings = {name: (float(total), int(count)) for name, total, count in _PERFORMANCE.findall(text)}
        if status != 0 or "prompt eval" not in timings:
            return {"failed": f"ended with {status}: {' / '.join(text.strip().splitlines()[-2:])}"[:300]}
        total, count = timings["prompt eval"]
        figures["ttft_ms"][str(count)] = total
        if number == 0:
            total, count = timings["eval"]
            figures["tpot_ms"] = total / count
    return figures


def best_device(home: Household) -> str:
    """That holds most of a model; of those, the one with the fastest disk."""
    return max(home.cluster.devices, key=lambda device: (device.memory_bytes, device.disk_bytes_per_second)).name


def llama_cpp(bench: Bench, cold: bool, lengths: list[int]) -> dict:
    """Alone on the best device, the model mapped. (By default it repacks weights into memory that the
    system can't take back, and is killed where that is too small; so without.)"""
    if cold:
        bench.home.drop_caches()
    return _llama_completion(bench, best_device(bench.home), lengths, bench.scenario.slow_tokens, ["--no-repack"])


def llama_cpp_rpc(bench: Bench, cold: bool, lengths: list[int]) -> dict:
    """Its RPC servers on all devices but the head, the layers dealt evenly; each keeps on its own disk what
    it was sent."""
    if bench.llama_cpp is None:
        raise LabError("llama.cpp's programs are not built")
    home = bench.home
    if cold:
        home.drop_caches()
    head, *others = [device.name for device in home.cluster.devices]
    servers = []
    for device in others:
        command = [str(bench.llama_cpp / "ggml-rpc-server"), "-H", home.address(device), "-p", str(RPC_PORT), "-t",
                   str(threads(home.cluster.device(device))), "-c"]
        servers.append(home.start(device, bench.note(device, command), log=home.folder / f"{device}.log"))
    time.sleep(1)
    layers = bench.n_layer - math.ceil(bench.n_layer / len(home.cluster.devices))
    try:
        return _llama_completion(bench, head, lengths, bench.scenario.tokens, [
            "--rpc", ",".join(f"{home.address(d)}:{RPC_PORT}" for d in others),
            "-ngl", str(layers), "-ts", ",".join("1" for _ in others)])
    finally:
        for server in servers:
            home.end(server)


SYSTEMS = {"prima": prima, "prima-by-itself": prima_by_itself, "prima-alone": prima_alone, "llama.cpp": llama_cpp, "llama.cpp-rpc": llama_cpp_rpc}
# Several systems may be one program, which finds again what it has left on the devices.
PROGRAMS = {"prima-by-itself": "prima", "prima-alone": "prima"}
RIVALS = ("llama.cpp", "llama.cpp-rpc")
# They read the whole model for a token where it does not fit.
SLOW = ("llama.cpp",)

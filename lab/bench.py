"""Measures a scenario: builds its household, runs its systems in turns, cold and warm, and gathers what
they and the kernel say into one JSON object (docs/benchmarks.md is written from those).

Not thread-safe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

import faults
import planning
import throughput
from cluster_file import Cluster, Device
from household import Household, LabError, drop_from_page_cache
from models import Models
from observation import Observation
from planning import Reference
from scenario import Scenario
from systems import PROGRAMS, RIVALS, SLOW, SYSTEMS, Bench, Plan, write_stores

REFERENCE_PROMPT = 128
# More than most scenarios ask for, so that one answer serves them all.
REFERENCE_TOKENS = 32
LONG_PROMPT = 128
# Of an answer, where one run a point shows how a curve goes.
SWEEP_TOKENS = 5


@dataclass(frozen=True)
class Options:
    name: str
    parent: pathlib.Path
    relay: pathlib.Path
    prima: pathlib.Path
    llama_cpp: pathlib.Path | None
    # A run that other programs or the host disturbed is thrown out and made again: so often it is tried.
    attempts: int = 3
    # A program that is told `begin` before a measurement, and waited for, and `end` after it: where others
    # share this machine, it can keep them quiet meanwhile.
    hook: str = ""
    # The model in memory is the same for scenarios that ask the same of it.
    references: dict = field(default_factory=dict, compare=False)


@contextlib.contextmanager
def undisturbed(options: Options):
    if options.hook:
        subprocess.run([options.hook, "begin"], check=True)
    try:
        yield
    finally:
        if options.hook:
            subprocess.run([options.hook, "end"], check=True)


def say(text: str) -> None:
    print(f"lab: {text}", file=sys.stderr, flush=True)


def machine() -> dict:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    with open("/proc/meminfo", encoding="utf-8") as lines:
        memory = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemTotal"))
    return {"processor": names[0] if names else platform.processor(), "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": memory, "kernel": platform.release()}


def available_memory() -> int:
    with open("/proc/meminfo", encoding="utf-8") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def prompt_text(tokens: int, tokens_per_word: float = 1.0) -> str:
    """About so many tokens, one of them the beginning's."""
    return " ".join(["a"] * max(1, round((tokens - 1) / tokens_per_word)))


def lone_device() -> Cluster:
    """All of this machine, without limits; it goes before other programs as devices do."""
    device = Device(name="machine", memory_bytes=available_memory(), reserve_bytes=0, disk_bytes_per_second=0,
                    cores=None, outage=None, gpus=0)
    return Cluster(name="this machine", head=device.name, devices=(device,), links={}, jitter_ms=0, loss_percent=0)


def _run_alone(home: Household, prima: pathlib.Path, model: pathlib.Path, context: int, prompt: str,
               tokens: int, options: tuple[str, ...] = ()) -> dict:
    report = home.folder / "report.json"
    home.output("machine", [str(prima), "run", "-m", str(model), "-c", str(context), "--raw", "-p", prompt, "-n",
                            str(tokens), "--temp", "0", "--ignore-eos", "--threads",
                            str(len(os.sched_getaffinity(0))), "--json", str(report), *options], seconds=900)
    return json.loads(report.read_text(encoding="utf-8"))


def measure_reference(options: Options, model: pathlib.Path, prompt: int, tokens: int, planned: dict,
                      ) -> tuple[Reference | None, float]:
    """The model in memory, where there is enough, and how many tokens a prompt's words have."""
    if available_memory() < 1.15 * model.stat().st_size:
        return None, 1.0
    context = 2 * max(REFERENCE_PROMPT, prompt) + tokens
    drop_from_page_cache(model)  # it may have just been made, and still be on its way to the disk
    with Household(lone_device(), options.name, options.parent, options.relay) as home, undisturbed(options):
        longer = _run_alone(home, options.prima, model, context, prompt_text(REFERENCE_PROMPT), tokens)
        tokens_per_word = (longer["prompt_tokens"] - 1) / (REFERENCE_PROMPT - 1)
        answer = _run_alone(home, options.prima, model, context, prompt_text(prompt, tokens_per_word), tokens)
        budget = ("--memory", str(home.cluster.devices[0].memory_bytes), "--no-store")
        within_budget = _run_alone(home, options.prima, model, context, prompt_text(REFERENCE_PROMPT), tokens, budget)
        budgeted_answer = _run_alone(home, options.prima, model, context, prompt_text(prompt, tokens_per_word), tokens,
                                     budget)
    if within_budget["memory"]["streamed_per_token"]:
        raise LabError("the model did not stay in this machine's memory")
    say(f"in memory: TPOT {answer['tpot_ms']:.0f} ms; in memory that can be taken back: "
        f"{within_budget['tpot_ms']:.0f} ms")
    return Reference(tpot_ms=min(longer["tpot_ms"], answer["tpot_ms"]),
                     prefill_tokens_per_second=longer["prefill_tokens_per_second"],
                     budgeted_tpot_ms=min(within_budget["tpot_ms"], budgeted_answer["tpot_ms"]),
                     budgeted_prefill_tokens_per_second=within_budget["prefill_tokens_per_second"],
                     weight_bytes=planning.weight_bytes(planned), tokens=tuple(answer["tokens"]),
                     budgeted_tokens=tuple(budgeted_answer["tokens"])), tokens_per_word


class Measurement:
    def __init__(self, scenario: Scenario, models: Models, options: Options):
        self.scenario = scenario
        self.models = models
        self.model = models.path(scenario.model)
        self.options = options
        self.commands: list[str] = []
        self._ran_last = ""  # of the programs

    def plan_for(self, scenario: Scenario, reference: Reference | None, max_rounds: int = 0) -> dict:
        with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
            file.write(planning.rated_cluster_file(scenario, reference))
            file.flush()
            # Several users have a context each.
            cells = scenario.context * max(scenario.users, default=1)
            return planning.ask_plan(self.options.prima, pathlib.Path(file.name), self.model, cells, max_rounds)

    def ring_of(self, planned: dict) -> Plan:
        takes = planning.takes_plans(self.options.prima)
        return planning.plan_of(planned) if takes else planning.plan_by_hand(planned)

    def household(self, scenario: Scenario) -> Household:
        return Household(scenario.cluster, self.options.name, self.options.parent, self.options.relay)

    def bench(self, home: Household, scenario: Scenario, plan: Plan) -> Bench:
        return Bench(home=home, scenario=scenario, prima=self.options.prima, llama_cpp=self.options.llama_cpp,
                     prompts=self.prompts, plan=plan, n_layer=self.planned["n_layer"], commands=self.commands)

    def place_model(self, home: Household, scenario: Scenario) -> None:
        n_devices = len(scenario.cluster.devices)
        copies = None
        if scenario.copies == "own" and n_devices > 1:
            copies = self.models.copies(self.model, n_devices)
            if not copies:
                home.not_emulated.append("a copy of the model for each device: the disk is too small")
        home.place_model(copies or [self.model])

    def run(self) -> dict:
        begin = time.monotonic()
        scenario = self.scenario
        unrated = self.plan_for(scenario, None)
        key = (self.model, scenario.prompts[0], max(scenario.tokens, REFERENCE_TOKENS))
        if key not in self.options.references:
            self.options.references[key] = measure_reference(self.options, *key, unrated)
        self.reference, tokens_per_word = self.options.references[key]
        self.prompts = {length: prompt_text(length, tokens_per_word) for length in scenario.prompts}
        self.planned = self.plan_for(scenario, self.reference)
        plan = self.ring_of(self.planned)
        result = {
            "version": 1, "scenario": scenario.name, "title": scenario.cluster.name,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "machine": machine(), "model": {"name": self.planned["model"], "bytes": self.model.stat().st_size,
                                            "weight_bytes": planning.weight_bytes(self.planned)},
            "devices": [dataclasses.asdict(device) for device in scenario.cluster.devices],
            "network": self._network(), "copies": scenario.copies, "stores": scenario.stores, "context": scenario.context,
            "asked": {"tokens": scenario.tokens, "repetitions": scenario.repetitions,
                      "slow_tokens": scenario.slow_tokens, "slow_repetitions": scenario.slow_repetitions},
            "reference": dataclasses.asdict(self.reference) if self.reference else None,
            "plan": {"devices": plan.devices, "layers": planning.layers_of(self.planned), "rounds": plan.rounds,
                     "windows_by_hand": plan.windows,
                     "predicted_tpot_ms": 1000 * self.planned["predicted"]["tpot_seconds"],
                     "timeline": {device["name"]: device["timeline"] for device in self.planned["devices"]}},
        }
        with self.household(scenario) as home:
            self.place_model(home, scenario)
            bench = self.bench(home, scenario, plan)
            if scenario.stores:
                write_stores(bench)
                home.drop_caches()
            result["runs"] = self._in_turns(bench, scenario.systems)
            result["limit_tpot_ms"] = self._limit(scenario, result["runs"])
            result["sweeps"] = {"rounds": self.sweep_rounds(bench)}
            result["failed"] = []
            try:
                if scenario.users:
                    with undisturbed(self.options):
                        result["throughput"] = throughput.measure(bench)
                if scenario.stall:
                    result["faults"] = faults.measure(bench, scenario.stall, self._pace(result["runs"]))
            except LabError as error:  # the other figures stand
                result["failed"].append(str(error))
                say(f"failed: {error}")
            result["not_emulated"] = home.not_emulated
        result["frames"] = home.frames
        result["sweeps"]["memories"] = self._memories(scenario)
        result["commands"] = self.commands
        result["seconds"] = time.monotonic() - begin
        return result

    def _network(self) -> dict:
        cluster = self.scenario.cluster
        link = next(iter(cluster.links.values()), None)
        return {"one_way_ms": link.one_way_ms, "mbit_per_second": link.bytes_per_second * 8 / 1e6,
                "shared": link.shared, "jitter_ms": cluster.jitter_ms,
                "loss_percent": cluster.loss_percent} if link else {}

    def _in_turns(self, bench: Bench, systems: tuple[str, ...]) -> list[dict]:
        runs = []
        repetitions = {system: self.scenario.slow_repetitions if system in SLOW else self.scenario.repetitions
                       for system in systems}
        for repetition in range(max(repetitions.values())):
            order = systems if repetition % 2 == 0 else tuple(reversed(systems))
            for system in order:
                if repetition < repetitions[system]:
                    runs += self.observe(bench, system, cold=repetition == 0, repetition=repetition)
        return runs

    def observe(self, bench: Bench, system: str, cold: bool, repetition: int = 0) -> list[dict]:
        """One run, and those before it that were disturbed. The last of them counts."""
        runs: list[dict] = []
        for _ in range(self.options.attempts):
            self.forget_others(bench.home, system)
            with undisturbed(self.options), Observation(bench.home) as seen:
                try:
                    figures = SYSTEMS[system](bench, cold, self._lengths(system, repetition))
                except LabError as error:
                    figures = {"failed": str(error)}
            run = {"system": system, "repetition": repetition, "cold": cold, "seconds": seen.seconds,
                   "stolen": seen.stolen, "foreign": seen.foreign, "disturbed": seen.disturbed(),
                   "thrown_out": False, "devices": seen.devices, **figures}
            runs.append(run)
            self._say(run)
            if "failed" in run or not run["disturbed"]:
                break
        for run in runs[:-1]:
            run["thrown_out"] = True
        return runs

    def forget_others(self, home: Household, system: str) -> None:
        """A program starts with what it left in the devices' file cache itself, or with none of it: what
        another used often there, the system keeps, and takes pages from the one that runs now instead."""
        program = PROGRAMS.get(system, system)
        if self._ran_last not in ("", program):
            home.drop_caches()
        self._ran_last = program

    def _lengths(self, system: str, repetition: int) -> list[int]:
        """Of the prompts; long ones, which take minutes, are measured once, of each program."""
        long_too = repetition == 0 and system in ("prima", *RIVALS)
        chosen = [length for length in self.scenario.prompts if length <= LONG_PROMPT or long_too]
        return chosen or [min(self.scenario.prompts)]

    @staticmethod
    def _say(run: dict) -> None:
        what = run.get("failed") or (f"TPOT {run['tpot_ms']:.0f} ms, TTFT "
                                     + ", ".join(f"{ms:.0f} ms ({n} tokens)" for n, ms in run["ttft_ms"].items()))
        noise = f"; disturbed ({run['stolen']:.0%} stolen, {run['foreign']:.0%} others)" if run["disturbed"] else ""
        say(f"{run['system']}, {'cold' if run['cold'] else 'warm'}: {what}{noise} [{run['seconds']:.0f} s]")

    @staticmethod
    def _pace(runs: list[dict]) -> faults.Pace:
        """Of the slowest ring so far; it has begun when two tokens are there."""
        if not any("start_ms" in run for run in runs):
            raise LabError("no ring has answered")
        tpot = max(run["tpot_ms"] for run in runs if "start_ms" in run) / 1000
        first = max(run["start_ms"] + next(iter(run["ttft_ms"].values())) for run in runs if "start_ms" in run)
        return faults.Pace(first / 1000 + 2 * tpot, tpot)

    def _limit(self, scenario: Scenario, runs: list[dict]) -> float:
        kv_cache = next((run["kv_cache_bytes"] for run in runs if "kv_cache_bytes" in run), 0)
        return planning.limit_ms(scenario.cluster, planning.weight_bytes(self.planned), kv_cache, self.reference)

    def sweep_rounds(self, bench: Bench) -> list[dict]:
        """The best plans that do with so many rounds."""
        found = []
        plan, bench.scenario = bench.plan, dataclasses.replace(
            self.scenario, tokens=min(self.scenario.tokens, SWEEP_TOKENS))
        for rounds in self.scenario.rounds:
            planned = self.plan_for(self.scenario, self.reference, max_rounds=rounds)
            bench.plan = self.ring_of(planned)
            say(f"at most {rounds} rounds")
            found.append({"rounds": rounds, "predicted_tpot_ms": 1000 * planned["predicted"]["tpot_seconds"],
                          "runs": self.observe(bench, "prima", cold=False, repetition=1)})
        bench.plan, bench.scenario = plan, self.scenario
        return found

    def _memories(self, scenario: Scenario) -> list[dict]:
        found = []
        for memory in scenario.memories:
            say(f"{memory / 2**30:g} GiB of memory")
            sized = planning.with_memory(scenario, memory)
            planned = self.plan_for(sized, self.reference)
            with self.household(sized) as home:
                self.place_model(home, sized)
                bench = self.bench(home, sized, self.ring_of(planned))
                # Others, who gain little by memory that does not suffice, at the end of their line only.
                runs = [run for system in scenario.systems if system not in RIVALS or memory == max(scenario.memories)
                        for run in self.observe(bench, system, cold=True)]
            found.append({"memory_bytes": memory, "predicted_tpot_ms": 1000 * planned["predicted"]["tpot_seconds"],
                          "limit_tpot_ms": self._limit(sized, runs), "runs": runs})
        return found


def measure(scenario: Scenario, models: Models, options: Options) -> dict:
    return Measurement(scenario, models, options).run()

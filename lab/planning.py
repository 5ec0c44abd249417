"""From a scenario to a plan and to the physical limit: `prima plan` on the cluster file, whose ratings
of processors are replaced by what this machine was measured to do.

Not thread-safe.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import tomllib
from dataclasses import dataclass

from cluster_file import Cluster
from household import LabError
from scenario import Scenario
from systems import Plan

# What the limit allows each device for the program, buffers and slots.
PROGRAM_BYTES = 128 << 20


@dataclass(frozen=True)
class Reference:
    """The model in memory, on this whole machine, without a lab: what a processor can do, and which
    tokens are right. Within a budget weights are as in their file, for which kernels are slower."""

    tpot_ms: float
    prefill_tokens_per_second: float
    budgeted_tpot_ms: float
    budgeted_prefill_tokens_per_second: float
    weight_bytes: int
    tokens: tuple[int, ...]
    budgeted_tokens: tuple[int, ...] = ()  # of those other kernels


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def rated_cluster_file(scenario: Scenario, reference: Reference | None) -> str:
    """The scenario's cluster file, with ratings measured: the whole machine's for all its cores, less
    for a share of them."""
    root = tomllib.loads(scenario.path.read_text(encoding="utf-8"))
    root.pop("lab", None)
    cores = len(os.sched_getaffinity(0))
    for table in root["device"]:
        share = table.pop("lab", {}).get("cores", cores) / cores
        table["memory"] = scenario.cluster.device(table["name"]).memory_bytes  # it may differ from the file's
        if reference:
            # Two operations a parameter; 4-bit weights with their scales are 4.6 bits a parameter.
            parameters = reference.weight_bytes * 8 / 4.6
            tpot_ms, prefill = (
                (reference.tpot_ms, reference.prefill_tokens_per_second) if scenario.stores else
                (reference.budgeted_tpot_ms, reference.budgeted_prefill_tokens_per_second))
            table["cpu"] = {"weights": share * reference.weight_bytes / (tpot_ms / 1000),
                            "operations_per_second": share * 2 * parameters * prefill}
    for table in [root.get("network", {}), *root.get("link", [])]:
        if "round_trip_ms" in table:
            # What the planner is told of an unsteady link is its mean, half the jitter each way.
            table["round_trip_ms"] += scenario.cluster.jitter_ms
    lines = []
    for key, value in root.items():
        tables = value if isinstance(value, list) and key in ("device", "link") else []
        for table in tables:
            lines += [f"[[{key}]]"] + [f"{inner} = {_toml(part)}" for inner, part in table.items()]
        if isinstance(value, dict):
            lines += [f"[{key}]"] + [f"{inner} = {_toml(part)}" for inner, part in value.items()]
        elif not tables:
            lines.insert(0, f"{key} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def ask_plan(prima: pathlib.Path, cluster_file: pathlib.Path, model: pathlib.Path, context: int,
             max_rounds: int = 0) -> dict:
    """`prima plan`'s answer."""
    done = subprocess.run([str(prima), "plan", "--cluster", str(cluster_file), "-m", str(model), "--objective", "tpot",
                           "-c", str(context), "--max-rounds", str(max_rounds), "--no-what-if", "--json"],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"prima plan: {done.stderr.strip()}")
    return json.loads(done.stdout)


def plan_of(planned: dict) -> Plan:
    """Of those in the ring, the head first even if it has no layers."""
    return Plan(tuple(device["name"] for device in planned["devices"]), rounds=planned["rounds"], planned=planned)


def takes_plans(prima: pathlib.Path) -> bool:
    """Whether `prima run` has --plan; without it, only plans whose rounds are alike can be run."""
    done = subprocess.run([str(prima), "run", "--help"], capture_output=True, text=True, check=False)
    return "--plan" in done.stdout


def plan_by_hand(planned: dict) -> Plan:
    """The nearest with the same windows in each round, as `prima run --windows` takes them. Fewer rounds
    come nearer to each device's share of layers, but read ahead less: both count."""
    shares = [(device["name"], sum(window[1] for window in device["windows"])) for device in planned["devices"]]
    shares = [(name, layers) for name, layers in shares if layers > 0]

    def windows_of(rounds: int) -> tuple[int, ...]:
        windows = [max(1, round(layers / rounds)) for _, layers in shares]
        # Enough for all layers: the device that rounding took most from gets them.
        while sum(windows) * rounds < planned["n_layer"]:
            windows[max(range(len(shares)), key=lambda i: shares[i][1] / rounds - windows[i])] += 1
        return tuple(windows)

    def cost(rounds: int) -> float:
        astray = sum(abs(window * rounds - layers) for window, (_, layers) in zip(windows_of(rounds), shares))
        return astray / planned["n_layer"] + 0.5 / rounds

    rounds = min(range(1, planned["rounds"] + 1), key=cost)
    return Plan(tuple(name for name, _ in shares), windows_of(rounds), rounds)


def layers_of(planned: dict) -> list[list[int]]:
    """How many layers each device has, round by round."""
    return [[window[1] for window in device["windows"]] for device in planned["devices"]]


def weight_bytes(planned: dict) -> int:
    return sum(device["resident_bytes"] + device["streamed_bytes"] for device in planned["devices"])


def limit_ms(cluster: Cluster, weights: int, kv_cache: int, reference: Reference | None) -> float:
    """No system can be faster: the larger of the model in memory, and what does not fit over all disks
    together. (A device without a disk can only help with its memory.)"""
    overflow = (weights + kv_cache + PROGRAM_BYTES * len(cluster.devices)
                - sum(device.budget_bytes for device in cluster.devices))
    disks = sum(device.disk_bytes_per_second for device in cluster.devices)
    from_disk = 1000 * max(0, overflow) / disks if disks else 0.0
    return max(from_disk, reference.tpot_ms if reference else 0.0)


def with_memory(scenario: Scenario, memory: int) -> Scenario:
    """The same with so much memory on each device."""
    devices = tuple(dataclasses.replace(device, memory_bytes=memory) for device in scenario.cluster.devices)
    return dataclasses.replace(scenario, cluster=dataclasses.replace(scenario.cluster, devices=devices))

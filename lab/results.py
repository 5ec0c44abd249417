"""What the JSON of a scenario says, for tables and drawings. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from figures import ratio_interval, summary

TITLES = {"prima": "Prima", "prima-by-itself": "Prima, planning by itself",
          "prima-alone": "Prima, best device alone", "llama.cpp": "llama.cpp, mmap",
          "llama.cpp-rpc": "llama.cpp, RPC servers", "prima-serve": "Prima, as a server"}


def shown_title(system: str) -> str:
    return TITLES.get(system, system)


def counted(result: dict) -> list[dict]:
    """The runs that were not thrown out."""
    return [run for run in result["runs"] if not run["thrown_out"]]


def of_system(result: dict, system: str) -> list[dict]:
    return [run for run in counted(result) if run["system"] == system and "failed" not in run]


def failures(result: dict, system: str) -> list[str]:
    return [run["failed"] for run in counted(result) if run["system"] == system and "failed" in run]


def values(result: dict, system: str, key: str, cold: bool | None = None) -> list[float]:
    return [run[key] for run in of_system(result, system)
            if run.get(key) is not None and cold in (None, run["cold"])]


def spread(result: dict, system: str, key: str, cold: bool | None = None) -> dict | None:
    return summary(values(result, system, key, cold))


def median(result: dict, system: str, key: str) -> float | None:
    found = spread(result, system, key)
    return found["median"] if found else None


def ttft(result: dict, system: str) -> dict[int, dict]:
    """By prompt length."""
    found: dict[int, list[float]] = {}
    for run in of_system(result, system):
        for length, milliseconds in run["ttft_ms"].items():
            found.setdefault(int(length), []).append(milliseconds)
    return {length: summary(times) for length, times in sorted(found.items())}


def paired(result: dict, ours: str, theirs: str) -> dict | None:
    """How many times longer their tokens take, over repetitions in which both were measured."""
    by_repetition = [{run["repetition"]: run["tpot_ms"] for run in of_system(result, system)} for system in (ours, theirs)]
    both = sorted(set(by_repetition[0]) & set(by_repetition[1]))
    return ratio_interval([by_repetition[0][r] for r in both], [by_repetition[1][r] for r in both])


def thrown_out(result: dict) -> int:
    return sum(run["thrown_out"] for run in result["runs"])


def disturbed(result: dict) -> int:
    """Runs that count although the machine was disturbed in each attempt."""
    return sum(run["disturbed"] for run in counted(result) if "failed" not in run)


@dataclass(frozen=True)
class Tokens:
    """Of runs that told their tokens. One plan gives the same every time, and the same as the model in
    memory on one device by the same kernels; those for weights as they lie in the file and those for the
    processor's layout part where two tokens are about as likely."""

    runs: int
    as_first: int  # as those of the first run of the same system
    as_in_memory: int  # by either kernels


def tokens(result: dict) -> Tokens:
    told = [run for run in result["runs"] if run.get("tokens")]
    first: dict[str, list[int]] = {}
    for run in told:
        first.setdefault(run["system"], run["tokens"])
    reference = result["reference"] or {}
    in_memory = [list(reference.get(key, ())) for key in ("tokens", "budgeted_tokens")]
    return Tokens(len(told), sum(run["tokens"] == first[run["system"]] for run in told),
                  sum(any(run["tokens"] == answer[:len(run["tokens"])] for answer in in_memory) for run in told))


def sweep_points(result: dict) -> list[dict]:
    """Over the memory of a lone device, least first; with that of the scenario itself."""
    swept = result["sweeps"]["memories"]
    itself = {"memory_bytes": result["devices"][0]["memory_bytes"], "limit_tpot_ms": result["limit_tpot_ms"],
              "predicted_tpot_ms": result["plan"]["predicted_tpot_ms"], "runs": result["runs"]}
    return sorted([*swept, itself], key=lambda point: point["memory_bytes"]) if swept else []

"""What is measured in a household: a cluster file whose `[lab.scenario]` table says which model, which
systems and how often.

    [lab.scenario]
    model = "8b"                    # a shape of MODELS, or "tinyllama", the demo's
    copies = "own"                  # each device a copy of the model; "shared": all one file
    context = 1024                  # tokens of context to make room for
    prompts = [16, 512]             # TTFT of prompts of about so many tokens
    tokens = 16                     # of an answer that is measured
    repetitions = 3                 # of each system, in turns
    systems = ["prima", "llama.cpp"]      # the keys of systems.SYSTEMS; the first is the subject
    slow_tokens = 2                 # of an answer of a system that reads its whole model for each
    slow_repetitions = 1            # of those systems
    rounds = [1, 2, 4, 8]           # also Prima with at most so many rounds
    memories = ["1 GiB", "2 GiB"]   # also Prima with so much memory on its only device
    users = [1, 4, 8]               # also tokens a second of `prima serve` for so many at once
    stores = true                   # devices have their layers in the processor's layout, as after a first rest
    stall = "node3"                 # also what happens when this device stalls, and when it leaves

Pure functions but for reading the file.
"""

from __future__ import annotations

import pathlib
import tomllib
from dataclasses import dataclass

from cluster_file import Cluster, ClusterFileError, parse_size, read_cluster

FOLDER = pathlib.Path(__file__).resolve().parent / "scenarios"

# Arguments of `prima model synth`. The weights are random: what is measured does not depend on them.
MODELS = {
    "8b": ["--layers", "32", "--embd", "4096", "--ff", "14336", "--heads", "32", "--kv-heads", "8",
           "--vocab", "128256", "--type", "Q4_K_M"],
    "70b": ["--layers", "80", "--embd", "8192", "--ff", "28672", "--heads", "64", "--kv-heads", "8",
            "--vocab", "128256", "--type", "Q4_K_M"],
}
TINYLLAMA = "tinyllama"

_DEFAULTS = {
    "model": "8b", "copies": "own", "context": 1024, "prompts": [16], "tokens": 16, "repetitions": 3,
    "systems": ["prima"], "slow_tokens": 2, "slow_repetitions": 1, "rounds": [], "memories": [], "users": [],
    "stores": False, "stall": "",
}


@dataclass(frozen=True)
class Scenario:
    name: str
    path: pathlib.Path
    cluster: Cluster
    model: str
    copies: str
    context: int
    prompts: tuple[int, ...]
    tokens: int
    repetitions: int
    systems: tuple[str, ...]
    slow_tokens: int
    slow_repetitions: int
    rounds: tuple[int, ...]
    memories: tuple[int, ...]  # bytes
    users: tuple[int, ...]
    stores: bool
    stall: str


def read_scenario(path: pathlib.Path) -> Scenario:
    cluster = read_cluster(path)
    table = tomllib.loads(path.read_text(encoding="utf-8")).get("lab", {}).get("scenario", {})
    for key, value in table.items():
        if key not in _DEFAULTS:
            raise ClusterFileError(f"{path}: [lab.scenario] has no '{key}'; it may have: {', '.join(_DEFAULTS)}")
        if type(value) is not type(_DEFAULTS[key]):
            raise ClusterFileError(f"{path}: {key} can't be {value!r}")
    values = _DEFAULTS | table
    if values["model"] not in (*MODELS, TINYLLAMA):
        raise ClusterFileError(f"{path}: no model is called {values['model']!r}; they are "
                               f"{', '.join((*MODELS, TINYLLAMA))}")
    if values["copies"] not in ("own", "shared"):
        raise ClusterFileError(f"{path}: copies are \"own\" or \"shared\"")
    if values["stores"] and (values["rounds"] or values["memories"] or "prima-by-itself" in values["systems"]):
        raise ClusterFileError(f"{path}: stores are of the layers of one plan; rounds, memories and prima-by-itself "
                               "make others")
    if values["stall"] and values["stall"] not in [device.name for device in cluster.devices]:
        raise ClusterFileError(f"{path}: no device is called {values['stall']!r}")
    return Scenario(
        name=path.stem, path=path, cluster=cluster,
        **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
           if key != "memories"},
        memories=tuple(int(parse_size(memory)) for memory in values["memories"]))


def find_scenario(name: str) -> pathlib.Path:
    """By its name in scenarios/, or the path of a file."""
    path = FOLDER / f"{name}.toml"
    if path.exists():
        return path
    if pathlib.Path(name).exists():
        return pathlib.Path(name)
    known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.toml")))
    raise ClusterFileError(f"no scenario is called {name!r}; they are {known}")

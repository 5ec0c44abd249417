"""A cluster's description, the same TOML file as `prima plan --cluster` reads (docs/cluster-file.md),
as the lab needs it: what each device is limited to, and how devices are connected.

Of the file's `lab` tables, which the planner leaves alone, it reads:

    [lab]                     # of the network
    jitter_ms = 10            # each frame is late by up to so much more
    loss_percent = 1          # of the frames between any two devices
    [lab.scenario]            # what to measure (scenario.py); the devices do not depend on it
    [device.lab]
    cores = 1.33              # processor time, in cores; all there are if absent
    outage = { first_s = 5, every_s = 10, for_ms = 300 }  # nothing passes to or from this device

Pure functions but for reading the file.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import tomllib
from dataclasses import dataclass

# The suffixes of src/base/units.cpp.
_UNITS = {"": 1, "B": 1, "K": 2**10, "KIB": 2**10, "KB": 10**3, "M": 2**20, "MIB": 2**20, "MB": 10**6,
          "G": 2**30, "GIB": 2**30, "GB": 10**9, "T": 2**40, "TIB": 2**40, "TB": 10**12}


class ClusterFileError(Exception):
    """What is wrong with the file, and where."""


@dataclass(frozen=True)
class Outage:
    first_s: float
    every_s: float
    for_ms: float


@dataclass(frozen=True)
class Device:
    name: str
    memory_bytes: int
    reserve_bytes: int
    disk_bytes_per_second: int  # 0: nothing can be read from it
    cores: float | None  # None: all that this machine has
    outage: Outage | None
    gpus: int  # which no lab can make

    @property
    def budget_bytes(self) -> int:
        """What Prima may use."""
        return self.memory_bytes - self.reserve_bytes


@dataclass(frozen=True)
class Link:
    """One way, from one device to another."""

    one_way_ms: float
    bytes_per_second: float
    shared: bool  # all links that are share one medium's time


@dataclass(frozen=True)
class Cluster:
    name: str
    head: str
    devices: tuple[Device, ...]
    links: dict[tuple[str, str], Link]  # both ways between any two devices
    jitter_ms: float
    loss_percent: float

    def device(self, name: str) -> Device:
        for device in self.devices:
            if device.name == name:
                return device
        raise KeyError(name)

    def only(self, names: list[str]) -> Cluster:
        """The same with these devices alone; the first of them is the head."""
        return dataclasses.replace(
            self, head=names[0], devices=tuple(self.device(name) for name in names),
            links={ends: link for ends, link in self.links.items() if set(ends) <= set(names)})


def parse_size(value: object, suffix: str = "") -> float:
    """`"9.7 GiB"`, or a number of bytes; with the suffix `/s`, `"3 GB/s"`."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9.]+) *([A-Za-z]*)", value.removesuffix(suffix).strip())
        if match and match[2].upper() in _UNITS:
            return float(match[1]) * _UNITS[match[2].upper()]
    raise ClusterFileError(f"{value!r} is not a size or a speed; write one such as '1.5 GiB{suffix}'")


def _known(table: dict, where: str, *keys: str) -> dict:
    for key in table:
        if key not in keys:
            raise ClusterFileError(f"{where} has no '{key}'; it may have: {', '.join(keys)}")
    return table


def _needed(table: dict, key: str, where: str):
    if key not in table:
        raise ClusterFileError(f"{where} lacks '{key}'")
    return table[key]


def _number(value: object, where: str, least: float = 0, most: float = 1e9) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
        raise ClusterFileError(f"{where} can't be {value!r}; write a number from {least:g} to {most:g}")
    return float(value)


def _outage(table: dict | None, where: str) -> Outage | None:
    if table is None:
        return None
    _known(table, where, "first_s", "every_s", "for_ms")
    outage = Outage(*(_number(_needed(table, key, where), f"{where}'s {key}")
                      for key in ("first_s", "every_s", "for_ms")))
    if outage.for_ms >= 1000 * outage.every_s:
        raise ClusterFileError(f"{where} never ends: for_ms must be less than every_s")
    return outage


def _device(table: dict, number: int) -> Device:
    where = f"device {table.get('name', number)}"
    lab = _known(table.get("lab", {}), f"{where}'s lab", "cores", "outage")
    cores = lab.get("cores")
    device = Device(
        name=_needed(table, "name", where),
        memory_bytes=int(parse_size(_needed(table, "memory", where))),
        reserve_bytes=int(parse_size(table.get("reserve", 0))),
        disk_bytes_per_second=int(parse_size(table.get("disk", 0), "/s")),
        cores=None if cores is None else _number(cores, f"{where}'s cores", 0.01, 1024),
        outage=_outage(lab.get("outage"), f"{where}'s outage"),
        gpus=len(table.get("gpu", [])))
    # It becomes part of the names of interfaces and folders.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,9}", device.name):
        raise ClusterFileError(f"{where}: for the lab a name is up to ten letters, digits, - and _")
    if device.budget_bytes <= 0:
        raise ClusterFileError(f"{where}: 'reserve' leaves nothing of 'memory'")
    return device


def _link(table: dict, where: str, back: bool = False) -> Link:
    _known(table, where, "between", "round_trip_ms", "mbit_per_second", "mbit_per_second_back", "shared")
    mbit = _number(_needed(table, "mbit_per_second", where), f"{where}'s mbit_per_second", 1e-3, 1e7)
    if back:
        mbit = _number(table.get("mbit_per_second_back", mbit), f"{where}'s mbit_per_second_back", 1e-3, 1e7)
    round_trip = _number(_needed(table, "round_trip_ms", where), f"{where}'s round_trip_ms", 0, 60000)
    return Link(one_way_ms=round_trip / 2, bytes_per_second=mbit * 1e6 / 8, shared=bool(table.get("shared")))


def _links(root: dict, names: list[str]) -> dict[tuple[str, str], Link]:
    links = {}
    if "network" in root:
        forward, back = (_link(root["network"], "the network", way) for way in (False, True))
        for i, a in enumerate(names):
            for b in names[i + 1:]:
                links[a, b], links[b, a] = forward, back
    for table in root.get("link", []):
        between = _needed(table, "between", "a link")
        if not isinstance(between, list) or len(set(between)) != 2 or not set(between) <= set(names):
            raise ClusterFileError(f"a link's 'between' can't be {between!r}; name two devices")
        a, b = between
        links[a, b], links[b, a] = _link(table, "a link"), _link(table, "a link", back=True)
    for a in names:
        for b in names:
            if a != b and (a, b) not in links:
                raise ClusterFileError(f"nothing says how {a} and {b} are connected; add a [network] table")
    return links


def parse_cluster(text: str) -> Cluster:
    try:
        root = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ClusterFileError(str(error)) from error
    devices = tuple(_device(table, i + 1) for i, table in enumerate(root.get("device", [])))
    names = [device.name for device in devices]
    if not names:
        raise ClusterFileError("no devices; describe each in a [[device]] table")
    if len(set(names)) < len(names):
        raise ClusterFileError("two devices have one name")
    head = root.get("head", names[0])
    if head not in names:
        raise ClusterFileError(f"no device is called {head!r}")
    lab = _known(root.get("lab", {}), "[lab]", "jitter_ms", "loss_percent", "scenario")
    return Cluster(
        name=root.get("name", "cluster"), head=head, devices=devices, links=_links(root, names),
        jitter_ms=_number(lab.get("jitter_ms", 0), "jitter_ms", 0, 60000),
        loss_percent=_number(lab.get("loss_percent", 0), "loss_percent", 0, 100))


def read_cluster(path: pathlib.Path) -> Cluster:
    try:
        return parse_cluster(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ClusterFileError(f"{path}: {error.strerror}") from error
    except ClusterFileError as error:
        raise ClusterFileError(f"{path}: {error}") from error

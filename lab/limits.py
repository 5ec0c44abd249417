"""Whether a household's limits are real: each is measured from inside the devices and compared with
the cluster file.

Takes some twenty seconds a device. Not thread-safe.
"""

from __future__ import annotations

import pathlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import household
from household import Household, LabError

PROBE = ["/usr/bin/env", "python3", str(pathlib.Path(__file__).resolve().parent / "probe.py")]
PORT = 5201


@dataclass(frozen=True)
class Comparison:
    what: str
    asked: float
    measured: float
    unit: str

    @property
    def ratio(self) -> float:
        return self.measured / self.asked

    def line(self) -> str:
        return (f"{self.what:36} {self.asked:12.4g} {self.measured:12.4g} {self.unit:8}"
                f" {100 * (self.ratio - 1):+6.1f} %")


def probe(home: Household, device: str, *words: object, seconds: float = 60) -> float:
    return float(home.output(device, PROBE + [str(word) for word in words], seconds).strip())


def _zeros(home: Household, device: str, size: int) -> pathlib.Path:
    path = home.folder / device / "zeros"
    with open(path, "wb") as file:
        block = bytes(1 << 20)
        for _ in range(-(-size // len(block))):
            file.write(block)
    household.drop_from_page_cache(path)
    return path


def page_cache(home: Household, device: str) -> Comparison:
    """Of a file larger than the device's memory: what is cached of it, and the program beside it."""
    memory = home.cluster.device(device).memory_bytes
    path = _zeros(home, device, int(1.5 * memory))
    cached = probe(home, device, "cached", path, seconds=300)
    path.unlink()
    return Comparison(f"{device}: memory, page cache counted", memory, cached, "bytes")


def anonymous_memory(home: Household, device: str) -> Comparison:
    """The most that a program had that took more than there is; it does not live to say so."""
    memory = home.cluster.device(device).memory_bytes
    home.groups.reset_peak(device)
    status = home.run(device, PROBE + ["hold", str(2 * memory)], seconds=120, log=home.folder / "hold")
    if status == 0:
        raise LabError(f"{device} could take twice its memory")
    return Comparison(f"{device}: memory, anonymous", memory, home.usage(device).peak_memory_bytes, "bytes")


def disk(home: Household, device: str, through_cache: bool = False) -> Comparison:
    speed = home.cluster.device(device).disk_bytes_per_second
    # Larger than what is read in the time: the second reading of a block might come from the cache.
    path = _zeros(home, device, int(4.5 * speed) if through_cache else min(speed, 1 << 30))
    measured = probe(home, device, "read-cached" if through_cache else "read", path, 4)
    path.unlink()
    return Comparison(f"{device}: disk, {'page cache' if through_cache else 'direct'}", speed, measured, "B/s")


def processor(home: Household, device: str) -> Comparison:
    return Comparison(f"{device}: processor share", home.cluster.device(device).cores or 0,
                      probe(home, device, "spin", 4), "cores")


def processor_burst(home: Household, device: str) -> Comparison:
    """As a layer window uses it: for a moment, after a rest."""
    return Comparison(f"{device}: processor share, in bursts", min(1, home.cluster.device(device).cores or 0),
                      probe(home, device, "burst", 40), "cores")


@contextmanager
def _server(home: Household, device: str, verb: str) -> Iterator[tuple[subprocess.Popen[bytes], pathlib.Path]]:
    """A probe that listens on the device, ended at the end, and its log: "ready" and what it prints."""
    log = home.folder / f"server-{time.monotonic_ns()}"
    server = home.start(device, PROBE + [verb, str(PORT)], log=log)
    try:
        deadline = time.monotonic() + 60  # a device may have little of a processor that others want too
        while not log.read_text(encoding="utf-8", errors="replace").startswith("ready\n"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"on {device}, the probe that has to {verb} does not listen: "
                               + log.read_text(encoding="utf-8", errors="replace").strip()[-2000:])
            time.sleep(0.02)
        yield server, log
    finally:
        home.end(server)


def _datagrams(home: Household, a: str, b: str, verb: str, count: int) -> float:
    with _server(home, b, "answer"):
        return probe(home, a, verb, home.address(b), PORT, count)


def latency(home: Household, a: str, b: str) -> Comparison:
    links, jitter = home.cluster.links, home.cluster.jitter_ms
    asked = links[a, b].one_way_ms + links[b, a].one_way_ms + jitter  # two halves of it on average
    return Comparison(f"{a} - {b}: round trip", asked, _datagrams(home, a, b, "ask", 200), "ms")


def loss(home: Household, a: str, b: str) -> Comparison:
    """There and back; outages of either count too."""
    passes = (1 - home.cluster.loss_percent / 100) ** 2
    for device in map(home.cluster.device, (a, b)):
        if device.outage:
            passes *= 1 - device.outage.for_ms / (1000 * device.outage.every_s)
    return Comparison(f"{a} - {b}: lost", 100 * (1 - passes), _datagrams(home, a, b, "lost", 8000), "%")


def bandwidth(home: Household, a: str, b: str) -> Comparison:
    with _server(home, b, "receive") as (server, log):
        home.output(a, PROBE + ["send", home.address(b), str(PORT), "4"])
        server.wait(timeout=60)
        received = float(log.read_text().removeprefix("ready\n"))
    # Of 1514 bytes on the cable 1448 are the stream's.
    return Comparison(f"{a} -> {b}: bandwidth", home.cluster.links[a, b].bytes_per_second, received * 1514 / 1448, "B/s")


def check_all(home: Household) -> list[Comparison]:
    """Every limit that is imposed."""
    found = []
    for device in home.cluster.devices:
        if "memory" in home.groups.hierarchies:
            found += [page_cache(home, device.name), anonymous_memory(home, device.name)]
        if device.disk_bytes_per_second and home.disk and "blkio" in home.groups.hierarchies:
            found += [disk(home, device.name), disk(home, device.name, through_cache=True)]
        if device.cores and "cpu" in home.groups.hierarchies:
            found += [processor(home, device.name), processor_burst(home, device.name)]
    names = [device.name for device in home.cluster.devices]
    for a, b in zip(names, names[1:] + names[:1]):
        if a != b:
            found.append(latency(home, a, b))
            if home.cluster.loss_percent or any(home.cluster.device(d).outage for d in (a, b)):
                found.append(loss(home, a, b))
            else:
                found.append(bandwidth(home, a, b))  # of a link that loses, TCP makes less
    return found

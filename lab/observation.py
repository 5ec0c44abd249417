"""What is seen of a household from outside while a system runs in it: memory, bytes read, processor
time; and whether the machine itself was disturbed.

Not thread-safe.
"""

from __future__ import annotations

import os
import threading
import time

from household import Household

# Of the machine's processor time, taken by its host or by other programs: more than this, and a run
# says nothing.
MOST_STOLEN = 0.02
MOST_FOREIGN = 0.08
SAMPLE_SECONDS = 0.25


def _machine_times() -> tuple[float, float, float]:
    """Processor seconds since the start: all, stolen by the host, busy."""
    with open("/proc/stat", encoding="utf-8") as lines:
        user, nice, system, idle, iowait, irq, softirq, steal, *_ = map(int, lines.readline().split()[1:])
    busy = user + nice + system + irq + softirq
    return (busy + idle + iowait + steal) / 100, steal / 100, busy / 100


def _process_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as line:
        # After the name, which may hold anything, in parentheses; user and system time are 14 and 15.
        words = line.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


class Observation:
    """Of a `with` block. `devices` and the parts of processor time are there when it has ended."""

    def __init__(self, home: Household):
        self.home = home
        self.devices: dict[str, dict[str, float]] = {}
        self.stolen = 0.0
        self.foreign = 0.0  # by programs that are not the lab's
        self.seconds = 0.0

    def __enter__(self) -> Observation:
        self._names = [device.name for device in self.home.cluster.devices]
        for name in self._names:
            self.home.groups.reset_peak(name)
        self._unreclaimable = {name: 0 for name in self._names}
        self._usage = {name: self.home.usage(name) for name in self._names}
        self._machine = _machine_times()
        self._own = self._lab_seconds()
        self._begin = time.monotonic()
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        if "memory" in self.home.groups.hierarchies:
            self._sampler.start()
        return self

    def _lab_seconds(self) -> float:
        relay = self.home.network.relay_process
        return sum(map(_process_seconds, [os.getpid()] + ([relay.pid] if relay else [])))

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            for name in self._names:
                now = self.home.groups.unreclaimable_bytes(name)
                self._unreclaimable[name] = max(self._unreclaimable[name], now)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._sampler.is_alive():
            self._sampler.join()
        self.seconds = time.monotonic() - self._begin
        total, stolen, busy = (now - before for now, before in zip(_machine_times(), self._machine))
        own = self._lab_seconds() - self._own
        for name in self._names:
            before, now = self._usage[name], self.home.usage(name)
            memory = self.home.cluster.device(name).memory_bytes
            own += now.processor_seconds - before.processor_seconds
            self.devices[name] = {
                "peak_memory_bytes": now.peak_memory_bytes,
                "unreclaimable_bytes": self._unreclaimable[name],
                "memory_pressure": self._unreclaimable[name] / memory,
                "read_bytes": now.read_bytes - before.read_bytes,
                "processor_seconds": now.processor_seconds - before.processor_seconds,
            }
        self.stolen = stolen / total
        self.foreign = max(0.0, busy - own) / total

    def disturbed(self) -> bool:
        return self.stolen > MOST_STOLEN or self.foreign > MOST_FOREIGN

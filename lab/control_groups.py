"""Limits on a device's memory, disk and processor, and what it has used, by cgroups version 1 or 2,
whichever the system has mounted with the controller that is needed.

A lab's groups lie in one folder per hierarchy, named after the lab, with one folder per device in it.
Not thread-safe.
"""

from __future__ import annotations

import os
import pathlib
import time
from dataclasses import dataclass

# The default of 100 ms never throttles a layer window, which takes some 40 ms and is followed by a
# rest: within 5 ms it is slowed down as a slower processor would be.
CPU_PERIOD_US = 5000

CONTROLLERS = ("memory", "blkio", "cpu", "cpuacct")
# Version 2 calls it another name, or has it in another controller.
_VERSION_2_NAMES = {"memory": "memory", "blkio": "io", "cpu": "cpu", "cpuacct": "cpu"}


@dataclass(frozen=True)
class Hierarchy:
    version: int
    root: pathlib.Path


@dataclass(frozen=True)
class Usage:
    """What a device used since its counters were last reset."""

    peak_memory_bytes: int
    read_bytes: int
    processor_seconds: float


def find_hierarchies(mounts: str | None = None) -> dict[str, Hierarchy]:
    """Per controller, where it can be used. `mounts`: the text of /proc/mounts."""
    if mounts is None:
        mounts = pathlib.Path("/proc/mounts").read_text(encoding="utf-8")
    found: dict[str, Hierarchy] = {}
    for line in mounts.splitlines():
        _, point, kind, options, *_ = line.split()
        root = pathlib.Path(point)
        if kind == "cgroup":
            for controller in set(options.split(",")) & set(CONTROLLERS):
                found[controller] = Hierarchy(1, root)
        elif kind == "cgroup2":
            available = (root / "cgroup.controllers").read_text(encoding="utf-8").split()
            for controller, name in _VERSION_2_NAMES.items():
                if name in available:
                    found.setdefault(controller, Hierarchy(2, root))
    return found


def disk_of(path: pathlib.Path, sys: pathlib.Path = pathlib.Path("/sys")) -> str | None:
    """MAJOR:MINOR of the whole disk that holds a file; None where it lies on no disk (a file system
    in memory, over the network or over other file systems)."""
    number = os.stat(path).st_dev
    device = sys / "dev/block" / f"{os.major(number)}:{os.minor(number)}"
    if not device.exists():
        return None
    device = device.resolve()
    if (device / "partition").exists():
        device = device.parent
    return (device / "dev").read_text(encoding="utf-8").strip()


class ControlGroups:
    """The groups of one lab."""

    def __init__(self, lab: str, hierarchies: dict[str, Hierarchy] | None = None):
        self.lab = lab
        self.hierarchies = find_hierarchies() if hierarchies is None else hierarchies

    def folder(self, controller: str, device: str) -> pathlib.Path:
        return self.hierarchies[controller].root / self.lab / device

    def _version(self, controller: str) -> int:
        hierarchy = self.hierarchies.get(controller)
        return hierarchy.version if hierarchy else 0

    def folders(self, device: str) -> list[pathlib.Path]:
        """Each once, though version 2 has one for all controllers."""
        return list(dict.fromkeys(self.folder(controller, device) for controller in self.hierarchies))

    def make(self, device: str) -> None:
        for folder in self.folders(device):
            folder.mkdir(parents=True)
        for hierarchy in set(self.hierarchies.values()):
            if hierarchy.version != 2:
                continue
            wanted = {_VERSION_2_NAMES[c] for c, h in self.hierarchies.items() if h == hierarchy}
            for parent in (hierarchy.root, hierarchy.root / self.lab):
                _write(parent / "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(wanted)))

        self._put_before_other_programs()

    def _put_before_other_programs(self) -> None:
        """Of this machine: what a device has is not to depend on what else runs here."""
        version = self._version("cpu")
        if version:
            top = self.hierarchies["cpu"].root / self.lab
            _write(top / ("cpu.shares" if version == 1 else "cpu.weight"), 262144 if version == 1 else 10000)

    # Each says whether this system can.

    def limit_memory(self, device: str, limit: int) -> bool:
        """All that is charged to the device: anonymous memory, page cache, the kernel's for it."""
        version = self._version("memory")
        if version == 1:
            folder = self.folder("memory", device)
            _write(folder / "memory.limit_in_bytes", limit)
            _write_if_there(folder / "memory.memsw.limit_in_bytes", limit)  # no swapping out
        elif version == 2:
            folder = self.folder("memory", device)
            _write(folder / "memory.max", limit)
            _write_if_there(folder / "memory.swap.max", 0)
        return version > 0

    def limit_disk(self, device: str, disk: str, bytes_per_second: int) -> bool:
        version = self._version("blkio")
        if version == 1:
            _write(self.folder("blkio", device) / "blkio.throttle.read_bps_device", f"{disk} {bytes_per_second}")
        elif version == 2:
            _write(self.folder("blkio", device) / "io.max", f"{disk} rbps={bytes_per_second}")
        return version > 0

    def limit_processor(self, device: str, cores: float) -> bool:
        version = self._version("cpu")
        quota = max(1000, round(cores * CPU_PERIOD_US))  # less than 1 ms the kernel refuses
        if version == 1:
            folder = self.folder("cpu", device)
            _write(folder / "cpu.cfs_period_us", CPU_PERIOD_US)
            _write(folder / "cpu.cfs_quota_us", quota)
        elif version == 2:
            _write(self.folder("cpu", device) / "cpu.max", f"{quota} {CPU_PERIOD_US}")
        return version > 0

    def unreclaimable_bytes(self, device: str) -> int:
        """What the system could not take back from the device now: anonymous, locked and dirty
        memory, and the kernel's."""
        folder = self.folder("memory", device)
        stat = _table(folder / "memory.stat")
        if self._version("memory") == 1:
            kernel = int((folder / "memory.kmem.usage_in_bytes").read_text())
            return sum(stat[f"total_{key}"] for key in ("rss", "unevictable", "dirty", "writeback")) + kernel
        return sum(stat.get(key, 0) for key in ("anon", "unevictable", "file_dirty", "file_writeback", "kernel"))

    def reset_peak(self, device: str) -> None:
        """Version 2 can't be reset: its peak is that of the group's whole life."""
        if self._version("memory") == 1:
            _write(self.folder("memory", device) / "memory.max_usage_in_bytes", 0)

    def usage(self, device: str, disk: str | None) -> Usage:
        peak = read = 0
        seconds = 0.0
        version = self._version("memory")
        if version:
            name = "memory.max_usage_in_bytes" if version == 1 else "memory.peak"
            peak = int((self.folder("memory", device) / name).read_text())
        version = self._version("blkio")
        if version == 1:
            text = (self.folder("blkio", device) / "blkio.throttle.io_service_bytes").read_text()
            read = sum(int(words[2]) for words in map(str.split, text.splitlines())
                       if len(words) == 3 and words[0] == disk and words[1] == "Read")
        elif version == 2:
            for words in map(str.split, (self.folder("blkio", device) / "io.stat").read_text().splitlines()):
                if words and words[0] == disk:
                    read = int(dict(word.split("=") for word in words[1:]).get("rbytes", 0))
        version = self._version("cpuacct")
        if version == 1:
            seconds = int((self.folder("cpuacct", device) / "cpuacct.usage").read_text()) / 1e9
        elif version == 2:
            seconds = _table(self.folder("cpuacct", device) / "cpu.stat")["usage_usec"] / 1e6
        return Usage(peak, read, seconds)

    def processes(self) -> list[int]:
        """All that run in the lab's groups."""
        found = set()
        for hierarchy in set(self.hierarchies.values()):
            for procs in (hierarchy.root / self.lab).glob("**/cgroup.procs"):
                found.update(map(int, procs.read_text().split()))
        return sorted(found - {0})  # 0: one outside this PID namespace

    def remove(self, seconds: float = 10) -> list[str]:
        """Removes the lab's groups, whose processes have ended; what could not be removed."""
        left = []
        for hierarchy in set(self.hierarchies.values()):
            top = hierarchy.root / self.lab
            folders = [path for path in sorted(top.glob("**/"), reverse=True)] if top.exists() else []
            for folder in folders:
                if not _remove_folder(folder, seconds):
                    left.append(str(folder))
        return left


def _remove_folder(folder: pathlib.Path, seconds: float) -> bool:
    """The kernel takes a moment to let go of processes that have ended."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            folder.rmdir()
            return True
        except FileNotFoundError:
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)


def _write(path: pathlib.Path, value: object) -> None:
    path.write_text(f"{value}\n")


def _write_if_there(path: pathlib.Path, value: object) -> None:
    if path.exists():
        _write(path, value)


def _table(path: pathlib.Path) -> dict[str, int]:
    return {words[0]: int(words[1]) for words in map(str.split, path.read_text().splitlines()) if len(words) == 2}

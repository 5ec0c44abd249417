"""A household of emulated devices on this machine, for as long as a `with` block:

    with Household(cluster) as home:
        worker = home.start("phone", ["prima", "join", "-m", home.model("phone")])
        home.run("desktop", ["prima", "run", ...], seconds=600)

Each device has a network namespace, a link with the cluster file's bandwidth and latency, cgroups with
its memory, disk speed and processor share, and a folder. What a device runs is free.

When the block ends, by whatever cause, everything is removed; a process of ours outlives even this
program's being killed to see to that (sweep.py). Needs root. Not thread-safe.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import sweep
from cluster_file import Cluster, Device
from control_groups import ControlGroups, Usage, disk_of
from network import Network, NetworkError

HERE = pathlib.Path(__file__).resolve().parent
DEFAULT_NAME = "prima-lab"
# Not /tmp, which may lie in memory.
DEFAULT_PARENT = pathlib.Path("/var/tmp")
DEFAULT_RELAY = HERE.parent / "build/release/lab_relay"
# What copies of the model may not take of the disk's free space.
SPARE_DISK_BYTES = 6 << 30


class LabError(Exception):
    """What can't be done here, and why."""


def drop_from_page_cache(path: pathlib.Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())  # dirty pages would stay
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def why_not(name: str = DEFAULT_NAME) -> str:
    """Why this machine can have no lab; empty where it can."""
    if os.geteuid() != 0:
        return "it needs root, for network namespaces and cgroups"
    for program in ("ip", "tc"):
        if not shutil.which(program):
            return f"{program} is not installed (Debian: iproute2)"
    if "memory" not in ControlGroups(name).hierarchies:
        return "no memory cgroups here"
    if not os.access(next(iter(ControlGroups(name).hierarchies.values())).root, os.W_OK):
        return "cgroups can't be made here"
    probe = f"{name}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"no network namespaces here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", probe], check=True)
    return ""


class Household:
    def __init__(self, cluster: Cluster, name: str = DEFAULT_NAME, parent: pathlib.Path = DEFAULT_PARENT,
                 relay: pathlib.Path = DEFAULT_RELAY):
        self.cluster = cluster
        self.name = name
        self.folder = parent / name
        self.not_emulated: list[str] = []
        self.groups = ControlGroups(name)
        self.network = Network(name, cluster, relay)
        self.models: dict[str, pathlib.Path] = {}
        self.disk: str | None = None
        self.frames = ""  # the relay's counts, after the end
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lock: socket.socket | None = None
        self._sweeper: subprocess.Popen[str] | None = None
        self._unmount_netns = False

    def __enter__(self) -> Household:
        if os.geteuid() != 0:
            raise LabError("the lab needs root, for network namespaces and cgroups")
        self._claim()
        left = sweep.sweep(self.name, self.folder)
        if left:
            raise LabError("an earlier lab left what can't be removed: " + ", ".join(left))
        self._start_sweeper()
        try:
            self._make()
        except BaseException as error:
            self.__exit__()
            if isinstance(error, NetworkError):
                raise LabError(f"this kernel can't make the lab's network: {error}") from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C must not stop the removal.
        previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.frames = self.network.stop()
            sweep.end_processes(self.name)
            for process in self._processes:
                process.wait()
            left = sweep.sweep(self.name, self.folder, self._unmount_netns)
            for what in left:
                print(f"lab: could not remove {what}", file=sys.stderr)
            if self._sweeper:
                self._sweeper.communicate("" if left else "swept")
            if self._lock:
                self._lock.close()
        finally:
            for number, action in previous.items():
                signal.signal(number, action)

    def _claim(self) -> None:
        # An abstract address: it is free again when its last holder has ended, and is no file.
        self._lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        deadline = time.monotonic() + 30  # that a killed lab's sweeper may take
        while True:
            try:
                self._lock.bind(f"\0{self.name}")
                return
            except OSError:
                if time.monotonic() > deadline:
                    self._lock.close()
                    raise LabError(f"another lab called {self.name} is running") from None
                time.sleep(0.1)

    def _start_sweeper(self) -> None:
        assert self._lock
        self._unmount_netns = not sweep.NETNS.is_mount()
        command = [sys.executable, str(HERE / "sweep.py"), self.name, str(self.folder)]
        command += ["--unmount-netns"] if self._unmount_netns else []
        self._sweeper = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True,
                                         pass_fds=[self._lock.fileno()])

    def _make(self) -> None:
        self.folder.mkdir(parents=True)
        self.disk = disk_of(self.folder)
        self.not_emulated += self.network.make()
        for device in self.cluster.devices:
            (self.folder / device.name).mkdir(mode=0o700)
            self.groups.make(device.name)
            self._limit(device)

    def _limit(self, device: Device) -> None:
        def note(what: str) -> None:
            self.not_emulated.append(f"{what} of {device.name}")

        if not self.groups.limit_memory(device.name, device.memory_bytes):
            note("memory: no memory cgroups here:")
        if device.disk_bytes_per_second > 0:
            if self.disk is None:
                note(f"disk speed: {self.folder} is on no disk:")
            elif not self.groups.limit_disk(device.name, self.disk, device.disk_bytes_per_second):
                note("disk speed: no blkio or io cgroups here:")
        if device.cores is not None:
            available = len(os.sched_getaffinity(0))
            if device.cores > available:
                note(f"{device.cores:g} cores: this machine has {available}:")
            elif not self.groups.limit_processor(device.name, device.cores):
                note("processor share: no cpu cgroups here:")
        if device.gpus:
            note("GPUs")

    def place_model(self, paths: list[pathlib.Path]) -> None:
        """Gives each device the model: a file of its own, or all the one file, whose page cache they then
        share."""
        if disk_of(paths[0]) != self.disk:
            self.not_emulated.append(f"disk speed: {paths[0]} is on another disk than {self.folder}")
        for number, device in enumerate(self.cluster.devices):
            self.models[device.name] = paths[0]
            if len(paths) > 1:
                own = self.folder / device.name / "model.gguf"
                own.hardlink_to(paths[number])
                self.models[device.name] = own
        self.drop_caches()

    def model(self, device: str) -> str:
        return str(self.models[device])

    def drop_caches(self) -> None:
        """What the file cache holds of the model, and of all that was written on the devices."""
        written = {path for device in self.cluster.devices for path in (self.folder / device.name).rglob("*")
                   if path.is_file() and not path.is_symlink()}
        for path in written | set(self.models.values()):
            drop_from_page_cache(path)

    def address(self, device: str) -> str:
        return self.network.address(device)

    def start(self, device: str, command: list[str], log: pathlib.Path | None = None,
              limited: bool = True) -> subprocess.Popen[bytes]:
        """Starts a program on a device. Its output goes to `log`, if given, else to this program's. One
        that is not limited is only on the device's network, as a user beside it is."""
        own = self.folder / device
        variables = {key: value for key, value in os.environ.items() if not key.startswith(("PRIMA_", "LLAMA_"))}
        variables |= {"HOME": str(own), "XDG_RUNTIME_DIR": str(own), "XDG_CONFIG_HOME": str(own),
                      "XDG_CACHE_HOME": str(own), "TMPDIR": str(own)}
        folders = self.groups.folders(device) if limited else []
        groups = " ".join(str(folder / "cgroup.procs") for folder in folders)
        enter = f'for procs in {groups}; do echo $$ >"$procs" || exit 125; done; exec "$@"'
        output = open(log, "ab") if log else None
        try:
            process = subprocess.Popen(
                ["sh", "-c", enter, "sh", "ip", "netns", "exec", self.network.namespace(device), *command],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=variables, start_new_session=True)
        finally:
            if output:
                output.close()
        self._processes.append(process)
        return process

    def run(self, device: str, command: list[str], seconds: float, **options) -> int:
        """Runs a program on a device until it ends; its exit status, or 124 where it took too long."""
        process = self.start(device, command, **options)
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.end(process)
            return 124

    def output(self, device: str, command: list[str], seconds: float = 60, **options) -> str:
        """Standard output and errors of a program that must succeed."""
        log = self.folder / f"output-{time.monotonic_ns()}"
        status = self.run(device, command, seconds, log=log, **options)
        text = log.read_text(encoding="utf-8", errors="replace")
        if status != 0:
            raise LabError(f"on {device}, {' '.join(command)} ended with {status}: {text.strip()[-2000:]}")
        return text

    def end(self, process: subprocess.Popen[bytes], patience: float = 5) -> None:
        """Asks a program to end, and after a while makes it."""
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.remove(process)

    def usage(self, device: str) -> Usage:
        return self.groups.usage(device, self.disk)

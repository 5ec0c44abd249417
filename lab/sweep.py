"""Removes whatever a lab has made, found by the lab's name alone, so that nothing has to be remembered:
processes, namespaces, cgroups, files. Run as a program it waits for the lab's end and then does so,
however the lab ended:

    sweep.py LAB FOLDER [--unmount-netns] < pipe from the lab

Not thread-safe.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from control_groups import ControlGroups
from network import namespaces_of

NETNS = pathlib.Path("/run/netns")


def processes(lab: str) -> list[int]:
    """All that run in the lab's cgroups or namespaces, but this one."""
    found = set(ControlGroups(lab).processes())
    for namespace in namespaces_of(lab):
        listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
        found.update(map(int, listed.stdout.split()))
    return sorted(found - {os.getpid()})


def end_processes(lab: str, seconds: float = 10) -> bool:
    """Whether none is left."""
    deadline = time.monotonic() + seconds
    while running := processes(lab):
        if time.monotonic() > deadline:
            return False
        for pid in running:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.05)
    return True


def sweep(lab: str, folder: pathlib.Path, unmount_netns: bool = False) -> list[str]:
    """What could not be removed."""
    left = []
    if not end_processes(lab):
        left += [f"process {pid}" for pid in processes(lab)]
    for namespace in namespaces_of(lab):
        done = subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            left.append(f"network namespace {namespace}: {done.stderr.strip()}")
    # `ip netns add` mounts the folder upon itself the first time that it is used.
    if unmount_netns and NETNS.is_mount() and not any(NETNS.iterdir()):
        subprocess.run(["umount", str(NETNS)], capture_output=True, check=False)
    left += ControlGroups(lab).remove()
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            left.append(str(folder))
    return left


def leftovers(lab: str, folder: pathlib.Path) -> list[str]:
    """What of a lab is there now."""
    groups = ControlGroups(lab)
    roots = {hierarchy.root / lab for hierarchy in groups.hierarchies.values()}
    return ([f"process {pid}" for pid in processes(lab)]
            + [f"network namespace {name}" for name in namespaces_of(lab)]
            + [str(path) for path in sorted(roots) + [folder] if path.exists()])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("lab")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--unmount-netns", action="store_true")
    arguments = parser.parse_args()
    # The end of the pipe is the lab's, by whatever cause. What it says first: that it has swept.
    if sys.stdin.read() == "swept":
        return 0
    left = sweep(arguments.lab, arguments.folder, arguments.unmount_netns)
    for what in left:
        print(f"lab: could not remove {what}", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())

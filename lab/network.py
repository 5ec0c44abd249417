"""The network between a lab's devices: a namespace each, joined by virtual cables to one more, the
switch. Bandwidth is tc's token bucket at both ends of a cable. The switch is the kernel's bridge or,
where links are to be late, unsteady, lossy or share the air, our relay (relay.cpp).

    device's namespace                switch's namespace
      eth0 ----------------------------- to-DEVICE --+
      (tbf: what it sends)   (tbf: what it receives) +-- bridge, or relay
      eth0 ----------------------------- to-DEVICE --+

Not thread-safe.
"""

from __future__ import annotations

import os
import pathlib
import subprocess

from cluster_file import Cluster

# A cable of virtual Ethernet takes about so long by itself; less the relay can't make of it.
LEAST_ONE_WAY_MS = 0.1
MTU = 1500


class NetworkError(Exception):
    """What the kernel refused."""


def run_tool(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NetworkError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")


def namespaces_of(lab: str) -> list[str]:
    folder = pathlib.Path("/run/netns")
    return sorted(path.name for path in folder.glob(f"{lab}-*")) if folder.exists() else []


class Network:
    def __init__(self, lab: str, cluster: Cluster, relay: pathlib.Path):
        self.lab = lab
        self.cluster = cluster
        self.relay = relay
        self.relay_process: subprocess.Popen[str] | None = None

    def namespace(self, device: str) -> str:
        return f"{self.lab}-{device}"

    def address(self, device: str) -> str:
        return f"10.77.0.{1 + [d.name for d in self.cluster.devices].index(device)}"

    def needs_relay(self) -> bool:
        return (self.cluster.jitter_ms > 0 or self.cluster.loss_percent > 0
                or any(device.outage for device in self.cluster.devices)
                or any(link.shared or link.one_way_ms > LEAST_ONE_WAY_MS for link in self.cluster.links.values()))

    def make(self) -> list[str]:
        """What of the network this kernel can't impose."""
        not_imposed = []
        switch = self.namespace("switch")
        run_tool("ip", "netns", "add", switch)
        for device in self.cluster.devices:
            not_imposed += self._connect(device.name, switch)
        if len(self.cluster.devices) == 1:
            return not_imposed
        if self.needs_relay():
            self._start_relay(switch)
        else:
            run_tool("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
            for device in self.cluster.devices:
                run_tool("ip", "-n", switch, "link", "set", f"to-{device.name}", "master", "bridge")
            run_tool("ip", "-n", switch, "link", "set", "bridge", "up")
        return not_imposed

    def _connect(self, device: str, switch: str) -> list[str]:
        inside, port = self.namespace(device), f"to-{device}"
        run_tool("ip", "netns", "add", inside)
        run_tool("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", inside)
        run_tool("ip", "-n", inside, "addr", "add", f"{self.address(device)}/24", "dev", "eth0")
        for namespace, interface in ((inside, "lo"), (inside, "eth0"), (switch, port)):
            run_tool("ip", "-n", namespace, "link", "set", interface, "up")
        if self.cluster.loss_percent > 0:
            # What is lost is a packet as on a real link, not one of 64 KiB that was yet to be cut.
            for namespace, interface in ((inside, "eth0"), (switch, port)):
                run_tool("ip", "-n", namespace, "link", "set", interface, "gso_max_segs", "1")
        links = self.cluster.links.items()
        sent = max((link.bytes_per_second for (a, _), link in links if a == device), default=0)
        received = max((link.bytes_per_second for (_, b), link in links if b == device), default=0)
        if not sent:
            return []
        try:
            self._limit(inside, "eth0", sent)
            self._limit(switch, port, received)
        except NetworkError as error:
            return [f"bandwidth of {device}: {error}"]
        return []

    @staticmethod
    def _limit(namespace: str, interface: str, bytes_per_second: float) -> None:
        # A bucket of two milliseconds: what a late timer leaves in a full one is lost, and with half a
        # millisecond a machine whose processors others want too gave 10 to 15 % less than asked. A much
        # larger one would let whole windows of a prompt pass at once. The queue is what a router has,
        # 50 ms.
        burst = max(3 * MTU, int(bytes_per_second / 500))
        run_tool("tc", "-n", namespace, "qdisc", "add", "dev", interface, "root", "tbf", "rate",
                 f"{int(8 * bytes_per_second)}bit", "burst", f"{burst}b", "latency", "50ms")

    def _start_relay(self, switch: str) -> None:
        self.relay_process = subprocess.Popen(
            ["ip", "netns", "exec", switch, str(self.relay)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, start_new_session=True)
        # Before everything else, so that a link is no slower while devices compute.
        try:
            os.sched_setscheduler(self.relay_process.pid, os.SCHED_FIFO, os.sched_param(1))
        except PermissionError:
            os.setpriority(os.PRIO_PROCESS, self.relay_process.pid, -20)
        for device in self.cluster.devices:
            self.tell_relay(f"port {device.name} to-{device.name}")
        for number, ((a, b), link) in enumerate(self.cluster.links.items()):
            # Medium 1 is the air. Links that differ from the fastest of their devices', which tc
            # imposes, have one of their own.
            medium = 1 if link.shared else number + 2
            delay = 1000 * max(0.0, link.one_way_ms - LEAST_ONE_WAY_MS / 2)
            self.tell_relay(f"link {a} {b} {delay:.0f} {1000 * self.cluster.jitter_ms:.0f} "
                            f"{1e4 * self.cluster.loss_percent:.0f} {medium} {link.bytes_per_second:.0f}")
        for device in self.cluster.devices:
            if device.outage:
                self.tell_relay(f"outage {device.name} {1000 * device.outage.first_s:.0f} "
                                f"{1000 * device.outage.every_s:.0f} {device.outage.for_ms:.0f}")
        self.tell_relay("start")
        assert self.relay_process.stdout
        if self.relay_process.stdout.readline().strip() != "ready":
            raise NetworkError("the relay did not start; its message is above")

    def tell_relay(self, command: str) -> None:
        """`cut DEVICE` or `restore DEVICE` while the lab runs."""
        if self.relay_process is None or self.relay_process.stdin is None:
            raise NetworkError("this network has no relay")
        try:
            self.relay_process.stdin.write(command + "\n")
            self.relay_process.stdin.flush()
        except BrokenPipeError:
            raise NetworkError("the relay has ended; its message is above") from None

    def stop(self) -> str:
        """Ends the relay; its counts of frames."""
        if self.relay_process is None:
            return ""
        try:
            counts, _ = self.relay_process.communicate("quit\n", timeout=5)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self.relay_process.kill()
            counts, _ = self.relay_process.communicate()
        self.relay_process = None
        return counts.strip()
